"""The Python face: round trips, specials, batches, files, pickling, threads."""

from __future__ import annotations

import gc
import json
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Peer

import penstock


@pytest.fixture(scope="module")
def tokenizer(stdlib_texts: list[str]) -> penstock.Tokenizer:
    return penstock.Tokenizer.train(
        stdlib_texts, vocab_size=3000, special_tokens=["<|endoftext|>", "<|pad|>"]
    )


@pytest.fixture(scope="module")
def peer(tokenizer: penstock.Tokenizer) -> Peer:
    return Peer.from_str(tokenizer.to_json())


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=400))
def test_any_text_comes_back(tokenizer: penstock.Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.count_tokens(text) == len(tokenizer.encode(text))


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_hf_gives_the_same_ids(tokenizer: penstock.Tokenizer, peer: Peer, text: str) -> None:
    if "<|" not in text:
        assert tokenizer.encode(text) == peer.encode(text, add_special_tokens=False).ids


def test_hf_gives_the_same_ids_on_real_text(
    tokenizer: penstock.Tokenizer, peer: Peer, stdlib_texts: list[str]
) -> None:
    texts = [t for t in stdlib_texts if "<|" not in t]
    ours = tokenizer.encode_batch(texts, threads=2)
    assert ours.tolist() == [e.ids for e in peer.encode_batch(texts, add_special_tokens=False)]
    assert tokenizer.decode_batch(ours) == texts


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=64))
def test_a_stream_never_hands_out_half_a_character(tokenizer: penstock.Tokenizer, data: bytes) -> None:
    ids = [i for b in data if (i := tokenizer.token_to_id(bytes([b]))) is not None]
    assert len(ids) == len(data)
    decoder = tokenizer.stream_decoder()
    pieces = [decoder.push(i) for i in ids]
    assert "".join([*pieces, decoder.finish()]) == data.decode("utf-8", "replace")


def test_a_special_string_in_a_text_is_text(tokenizer: penstock.Tokenizer) -> None:
    text = "a<|endoftext|>b<|pad|>"
    specials = tokenizer.special_tokens
    assert not set(specials.values()) & set(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    allowed = tokenizer.encode(text, allowed_special={"<|pad|>"})
    assert specials["<|pad|>"] in allowed
    assert specials["<|endoftext|>"] not in allowed
    everything = tokenizer.encode(text, allowed_special="all")
    assert {specials["<|pad|>"], specials["<|endoftext|>"]} <= set(everything)
    assert tokenizer.decode(everything) == text


def test_a_disallowed_special_string_is_refused(tokenizer: penstock.Tokenizer) -> None:
    text = "a<|endoftext|>b<|pad|>"
    for encode in (tokenizer.encode, tokenizer.encode_to_numpy, tokenizer.encode_with_offsets):
        with pytest.raises(ValueError, match=r"text 0, character 1: .*'<\|endoftext\|>'"):
            encode(text, disallowed_special="all")
        with pytest.raises(penstock.TokenizerError, match=r"character 15: .*'<\|pad\|>'"):
            encode(text, allowed_special={"<|endoftext|>"}, disallowed_special="all")
        with pytest.raises(penstock.TokenizerError, match=r"character 15"):
            encode(text, allowed_special="all", disallowed_special={"<|pad|>"})
        encode(text, allowed_special="all", disallowed_special="all")
        encode("plain <|en", disallowed_special="all")
    with pytest.raises(penstock.TokenizerError, match="text 1, character 15"):
        tokenizer.encode_batch(["fine", text], disallowed_special=["<|pad|>"])
    specials = tokenizer.special_tokens
    assert (
        tokenizer.encode(text, allowed_special="all", disallowed_special="all")[1]
        == specials["<|endoftext|>"]
    )
    assert tokenizer.count_tokens(text, allowed_special="all") == 4


def test_a_single_name_is_no_collection_of_tokens(tokenizer: penstock.Tokenizer) -> None:
    """Its letters would be one."""
    for option in ("allowed_special", "disallowed_special"):
        with pytest.raises(penstock.ConfigError, match=rf"{option}='<\|pad\|>': expected 'all' or a coll"):
            tokenizer.encode("a<|pad|>", **{option: "<|pad|>"})


@pytest.mark.parametrize("threads", [-1, 2**70])
def test_a_number_of_threads_that_is_none(tokenizer: penstock.Tokenizer, threads: int) -> None:
    with pytest.raises(penstock.ConfigError, match="threads"):
        tokenizer.encode_batch(["a"], threads=threads)


@pytest.mark.parametrize("characters", [0, 1, 1023, 1024, 1025, 5000])
def test_every_way_to_encode_gives_the_same_ids(tokenizer: penstock.Tokenizer, characters: int) -> None:
    """Short texts and long ones take ways of their own."""
    text = ("ein 'Satz' <|pad|> 数 🙂 " * 400)[:characters]
    for allowed in ((), "all", ["<|pad|>"]):
        ids = tokenizer.encode(text, allowed_special=allowed)
        assert tokenizer.encode_to_numpy(text, allowed_special=allowed).tolist() == ids
        assert tokenizer.encode_batch([text], allowed_special=allowed).tolist() == [ids]
        assert tokenizer.decode(ids) == text


def test_a_batch_is_its_parts(tokenizer: penstock.Tokenizer) -> None:
    texts = ["", "one", "deux trois", "", "四"]
    batch = tokenizer.encode_batch(texts, threads=2)
    assert batch.ids.dtype == np.uint32
    assert batch.offsets.dtype == np.int64
    assert len(batch) == 5
    assert batch.tolist() == [tokenizer.encode(t) for t in texts]
    assert batch[-1].tolist() == tokenizer.encode("四")
    assert batch.to_arrow().to_pylist() == batch.tolist()
    with pytest.raises(IndexError):
        batch[5]


@pytest.mark.parametrize("is_enabled", [True, False])
def test_lists_of_a_batch_are_made_without_a_garbage_collection(is_enabled: bool) -> None:
    batch = penstock.TokenBatch(np.arange(5000, dtype=np.uint32), np.arange(5001))
    collections: list[str] = []
    gc.callbacks.append(lambda phase, info: collections.append(phase))
    try:
        (gc.enable if is_enabled else gc.disable)()
        during = (batch.tolist(), len(collections))[1]
        assert gc.isenabled() == is_enabled
    finally:
        gc.callbacks.pop()
        gc.enable()
    assert during == 0


@pytest.mark.parametrize("offsets", [[0, 4], [2, 1], [-1, 2]])
def test_offsets_that_do_not_lie_in_the_ids_are_refused(offsets: list[int]) -> None:
    batch = penstock.TokenBatch(np.arange(3, dtype=np.uint32), np.array(offsets))
    with pytest.raises(penstock.TokenizerError, match=f"offsets {offsets[0]} and {offsets[1]} .* 3 ids"):
        batch.tolist()


def test_files_keep_everything(tokenizer: penstock.Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tok")
    assert penstock.Tokenizer.from_file(tmp_path / "tok") == tokenizer
    assert penstock.Tokenizer.from_file(tmp_path / "tok/tokenizer.json") == tokenizer


@pytest.fixture(scope="module")
def ranks(
    stdlib_texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[penstock.Tokenizer, Path]:
    """A tokenizer with the one control token that a rank file leaves room for, and its rank file."""
    tokenizer = penstock.Tokenizer.train(stdlib_texts, vocab_size=3000)
    path = tmp_path_factory.mktemp("ranks") / "ranks.tiktoken"
    tokenizer.save(path)
    return tokenizer, path


def test_a_rank_file_gives_the_same_ids_here_and_in_tiktoken(
    ranks: tuple[penstock.Tokenizer, Path], stdlib_texts: list[str]
) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import load_tiktoken_bpe

    tokenizer, path = ranks
    again = penstock.Tokenizer.from_file(path, pattern="deepseek-v3")
    peer = tiktoken.Encoding(  # any split will do: whole texts are short words here
        "peer", pat_str=r"[\s\S]+", mergeable_ranks=load_tiktoken_bpe(str(path)), special_tokens={}
    )
    for text in stdlib_texts[:60]:
        assert np.array_equal(again.encode_to_numpy(text), tokenizer.encode_to_numpy(text))
        for word in set(text.split()):
            if word.isalpha() and word.isascii():
                assert peer.encode_ordinary(word) == tokenizer.encode(word)
    assert again.special_tokens == tokenizer.special_tokens


def test_what_a_rank_file_cannot_hold_is_refused(tokenizer: penstock.Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(penstock.TokenizerError, match="special tokens"):
        tokenizer.save(tmp_path / "ranks.tiktoken")
    assert not list(tmp_path.iterdir())


def test_transformers_loads_what_we_save(tokenizer: penstock.Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    fast = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = "for i in range(10):\n\tprint('x', i)\n"
    assert fast.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert fast.eos_token == "<|endoftext|>"


def test_it_pickles_by_content_and_is_shared_by_threads(tokenizer: penstock.Tokenizer) -> None:
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again == tokenizer
    assert hash(again) == hash(tokenizer)
    texts = [f"some text {i}" for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == [again.encode(t) for t in texts]


def test_a_rank_file_pickles_by_content(ranks: tuple[penstock.Tokenizer, Path]) -> None:
    tokenizer = penstock.Tokenizer.from_file(ranks[1], pattern="deepseek-v3")
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again == tokenizer
    assert again.special_tokens == tokenizer.special_tokens
    constructor, (content,) = tokenizer.__reduce__()
    for damaged in (b"", content[:-1], content[:-1] + b"\0" * 2, content[:99] + b"!" + content[100:]):
        with pytest.raises(penstock.TokenizerError, match="no tokenizer of this version"):
            constructor(damaged)


def test_an_id_outside_the_vocabulary(tokenizer: penstock.Tokenizer) -> None:
    with pytest.raises(penstock.TokenizerError, match="3000"):
        tokenizer.decode([1, 3000])


def test_a_panic_is_an_internal_error() -> None:
    from penstock import _core

    with pytest.raises(penstock.InternalError, match="asked for by a test"):
        _core._panic_for_tests()


BAD_FILES = {
    "not json": "{",
    "no model": "{}",
    "other model": json.dumps({"model": {"type": "WordPiece", "vocab": {}}}),
    "dangling merge": json.dumps({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "zz"]]}}),
    "duplicate id": json.dumps({"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}}),
}


@pytest.mark.parametrize("text", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_damaged_file_is_a_typed_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(penstock.TokenizerError, match=r"tokenizer\.json"):
        penstock.Tokenizer.from_file(path)


def test_a_missing_file_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(penstock.TokenizerError, match="nothing-here"):
        penstock.Tokenizer.from_file(tmp_path / "nothing-here")


def test_a_rank_file_needs_a_pattern(ranks: tuple[penstock.Tokenizer, Path]) -> None:
    with pytest.raises(penstock.TokenizerError, match="pattern"):
        penstock.Tokenizer.from_file(ranks[1])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("none.json", "no such file or folder"),
        ("none", "no such file or folder"),
        ("", "without a tokenizer"),
    ],
)
def test_a_tokenizer_that_is_not_there_is_named_with_what_was_expected(
    name: str, found: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    with pytest.raises(penstock.TokenizerError) as error:
        penstock.Tokenizer.from_file(path)
    assert str(error.value).startswith(f"{path}: ")
    assert re.search(rf"{found}.*; expected a folder with a tokenizer\.json", str(error.value))


def test_a_text_that_is_not_there_is_named_with_what_was_expected(tmp_path: Path) -> None:
    tokenizer = penstock.Tokenizer.train(["abc"] * 3, 257)
    path = tmp_path / "none.jsonl"
    for read in (tokenizer.encode_files, lambda path: penstock.Tokenizer.train([path], 300)):
        with pytest.raises(penstock.InputError, match=r"none\.jsonl: no such file; expected .* \.jsonl"):
            read(path)
