"""Merges equal Hugging Face's BpeTrainer; the result depends on the text alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Peer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

import penstock

DEEPSEEK_V3 = [
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]


def peer_trained(texts: list[str], vocab_size: int, patterns: list[str]) -> Peer:
    """HF's tokenizer with the same split, alphabet and specials, trained on the same texts."""
    peer = Peer(BPE())
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    peer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    peer.train_from_iterator(texts, trainer)
    return peer


def merges_and_vocabulary(tokenizer_json: str) -> tuple[list[tuple[str, str]], dict[str, int]]:
    model = json.loads(tokenizer_json)["model"]
    return [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]], model["vocab"]


def assert_equal_to_peer(texts: list[str], vocab_size: int, ours: penstock.Tokenizer) -> None:
    peer = peer_trained(texts, vocab_size, DEEPSEEK_V3)
    merges, vocabulary = merges_and_vocabulary(ours.to_json())
    peer_merges, peer_vocabulary = merges_and_vocabulary(peer.to_str())
    assert merges == peer_merges
    assert {k: v for k, v in peer_vocabulary.items() if k != "<|endoftext|>"} == {
        k: v for k, v in vocabulary.items() if k != "<|endoftext|>"
    }


def test_merges_equal_hf_on_code(stdlib_texts: list[str]) -> None:
    ours = penstock.Tokenizer.train(stdlib_texts, vocab_size=4096)
    assert ours.vocab_size == 4096
    assert_equal_to_peer(stdlib_texts, 4096, ours)


@pytest.mark.slow
def test_merges_equal_hf_on_20_mb(shared: Path) -> None:
    """32,000 merges on 20 MB of text in many languages: the acceptance criterion."""
    zstandard = pytest.importorskip("zstandard")
    texts: list[str] = []
    size = 0
    with zstandard.open(shared / "corpus/train-000.jsonl.zst", "rt", encoding="utf-8") as lines:
        for line in lines:
            texts.append(json.loads(line)["text"])
            size += len(texts[-1].encode())
            if size > 20_000_000:
                break
    vocab_size = 32_000 + 257
    ours = penstock.Tokenizer.train(iter(texts), vocab_size=vocab_size)
    assert len(ours.merges()) == 32_000
    assert_equal_to_peer(texts, vocab_size, ours)


def test_the_same_bits_for_any_threads_and_order(stdlib_texts: list[str], tmp_path: Path) -> None:
    files = []
    for i in range(4):
        path = tmp_path / f"part-{i}.jsonl"
        path.write_text("".join(json.dumps({"text": t}) + "\n" for t in stdlib_texts[i::4]), encoding="utf-8")
        files.append(path)
    first = penstock.Tokenizer.train(files, vocab_size=2000, threads=1)
    for threads, paths in ((2, files), (3, files[::-1]), (8, files)):
        assert penstock.Tokenizer.train(paths, vocab_size=2000, threads=threads).sha256 == first.sha256
    assert penstock.Tokenizer.train(stdlib_texts, vocab_size=2000).sha256 == first.sha256


@pytest.mark.parametrize("corpus", [[], [""], iter(())])
def test_an_empty_corpus_is_refused(corpus: object) -> None:
    with pytest.raises(penstock.TokenizerError, match="empty"):
        penstock.Tokenizer.train(corpus, vocab_size=500)  # type: ignore[arg-type]


def test_a_vocabulary_below_the_bytes_is_refused() -> None:
    with pytest.raises(penstock.TokenizerError, match="257"):
        penstock.Tokenizer.train(iter(["some text"]), vocab_size=256)


def test_colliding_specials_are_refused() -> None:
    with pytest.raises(penstock.TokenizerError, match="<a>"):
        penstock.Tokenizer.train(iter(["some text"]), vocab_size=500, special_tokens=["<a>", "<a>"])


def test_an_unknown_pattern_is_refused() -> None:
    with pytest.raises(penstock.TokenizerError, match="deepseek-v3"):
        penstock.Tokenizer.train(iter(["some text"]), vocab_size=500, pattern="deepseek-v33")
