"""SentencePiece models: the ids that SentencePiece gave, and what would give others refused by name."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import penstock
from penstock import Tokenizer, TokenizerError

HERE = Path(__file__).parent / "sentencepiece"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
Piece = tuple[str, float, int]


@pytest.fixture(scope="module", params=["words", "phrases"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer(name: str) -> Tokenizer:
    return Tokenizer.from_file(HERE / f"{name}.model")


def test_ids_are_those_of_sentencepiece(tokenizer: Tokenizer, name: str) -> None:
    recorded = json.loads((HERE / "ids.json").read_text(encoding="utf-8"))
    texts = recorded["texts"]
    assert len(texts) > 200
    for threads in (1, 2):
        assert tokenizer.encode_batch(texts, threads=threads).tolist() == recorded["ids"][name]
    for text, ids in zip(texts, recorded["ids"][name], strict=True):
        prefix = " " if name == "words" and text else ""
        assert tokenizer.decode(ids) == prefix + text.replace("▁", " ")


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=100))
def test_every_text_has_ids_of_the_vocabulary(tokenizer: Tokenizer, name: str, text: str) -> None:
    for options in ({}, {"dropout": 0.5}, {"dropout": 1.0}):
        ids = tokenizer.encode(text, **options)  # type: ignore[arg-type]
        assert max(ids, default=0) < tokenizer.vocab_size == 480
        assert tokenizer.decode(ids) == (" " if name == "words" and text else "") + text.replace("▁", " ")


def test_hidden_tokens_stay_hidden(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_to_id("最".encode()[:2]) is None
    assert tokenizer.id_to_bytes(480) is None
    with pytest.raises(TokenizerError, match="id 480 is not"):
        tokenizer.decode([480])
    assert all(left + right for left, right in tokenizer.merges())
    assert all((left + right).decode() for left, right in tokenizer.merges())


def test_control_tokens_are_text_unless_allowed(tokenizer: Tokenizer) -> None:
    assert tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}
    assert tokenizer.eot_id == 2
    assert not {1, 2} & set(tokenizer.encode("<s>a</s>"))
    assert tokenizer.encode("<s>a</s>", allowed_special="all")[0] == 1


def test_it_is_kept_as_the_model_that_it_is(tokenizer: Tokenizer, name: str, tmp_path: Path) -> None:
    source = (HERE / f"{name}.model").read_bytes()
    tokenizer.save(tmp_path / "folder")
    assert (tmp_path / "folder/tokenizer.model").read_bytes() == source
    assert Tokenizer.from_file(tmp_path / "folder") == tokenizer == pickle.loads(pickle.dumps(tokenizer))
    tokenizer.save(tmp_path / "again.model")
    assert Tokenizer.from_file(tmp_path / "again.model") == tokenizer
    for target in ("x.json", "x.tiktoken"):
        with pytest.raises(TokenizerError, match="SentencePiece model cannot be written"):
            tokenizer.save(tmp_path / target)
    for refused in (tokenizer.to_json, lambda: penstock.interop.to_tiktoken(tokenizer)):
        with pytest.raises(TokenizerError, match="SentencePiece"):
            refused()
    with pytest.raises(TokenizerError, match="SentencePiece"):
        Tokenizer.train(["a b"], 500, extend=tokenizer)
    with pytest.raises(TokenizerError, match="splits by"):
        Tokenizer.from_file(HERE / f"{name}.model", pattern="gpt2")
    with pytest.raises(TokenizerError, match="SentencePiece"):
        penstock.interop.convert_tokenizer(HERE / f"{name}.model", tmp_path / "x.json")


def test_a_corpus_is_packed_with_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Some text. 最后\n" * 30, encoding="utf-8")
    report = penstock.pack(tmp_path / "text.txt", tokenizer, 32, tmp_path / "out")
    assert report.tokens == tokenizer.count_tokens("Some text. 最后\n" * 30) + 1


def varint(value: int) -> bytes:
    more = value >> 7
    return bytes([value & 0x7F | 0x80]) + varint(more) if more else bytes([value])


def field(number: int, value: int | bytes | float) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


BYTES: list[Piece] = [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
PIECES: list[Piece] = [
    ("<unk>", 0.0, UNKNOWN), *BYTES,
    ("aa", 0.0, NORMAL), ("▁a", -1.0, NORMAL), ("▁", -2.0, NORMAL), ("a", -3.0, NORMAL),
]  # fmt: skip


def model(pieces: Iterable[Piece] = PIECES, **changed: Any) -> bytes:
    """A model file, written by the public description of the format."""
    values = {
        "type": 2,
        "fallback": 1,
        "suffix": 0,
        "rules": b"",
        "prefix": 1,
        "extra": 0,
        "escape": 1,
    } | changed
    out = b"".join(
        field(1, field(1, text.encode()) + field(2, score) + field(3, kind)) for text, score, kind in pieces
    )
    out += field(2, field(3, values["type"]) + field(24, values["suffix"]) + field(35, values["fallback"]))
    numbers = field(3, values["prefix"]) + field(4, values["extra"]) + field(5, values["escape"])
    return out + field(3, field(1, b"identity") + field(2, values["rules"]) + numbers)


def load(data: bytes) -> Tokenizer:
    return Tokenizer(penstock._core.Tokenizer.from_sentencepiece(data))


def test_equal_scores_and_overlaps_go_from_the_left() -> None:
    tok = load(model())
    # "aa" has the best score, so the space stays alone; of three a, the first two are merged.
    assert [tok.id_to_bytes(i) for i in tok.encode("aaa")] == [b" ", b"aa", b"a"]
    assert [tok.id_to_bytes(i) for i in tok.encode("a\n最")] == [b" a", b"\n", b"\xe6", b"\x9c", b"\x80"]


REFUSED = {
    "unigram": (model(type=1), "no BPE"),
    "no fallback": (model(fallback=0), "no byte fallback"),
    "rules": (model(rules=b"\1"), "rules of its own"),
    "extra spaces": (model(extra=1), "remove_extra_whitespaces"),
    "no escape": (model(escape=0), "escape_whitespaces"),
    "suffix": (model(suffix=1), "treat_whitespace_as_suffix"),
    "user-defined": (model([*PIECES, ("x", 0.0, USER_DEFINED)]), 'user-defined or unused piece, "x"'),
    "unused": (model([*PIECES, ("x", 0.0, UNUSED)]), "user-defined or unused"),
    "duplicate": (model([*PIECES, ("aa", -9.0, NORMAL)]), "aa"),
    "equal scores": (model([*PIECES, ("aaa", 0.0, NORMAL)]), "scores that differ"),
    "no number": (model([*PIECES, ("aaa", float("nan"), NORMAL)]), "scores that differ"),
    "missing byte": (model([p for p in PIECES if p[0] != "<0xE6>"]), "0xE6|byte 230"),
    "byte twice": (model([*PIECES, BYTES[200]]), "<0xC8>"),
    "odd byte": (model([*PIECES, ("<0xG>", 0.0, BYTE)]), "a byte piece such as"),
    "no space": (model([p for p in PIECES if p[0] != "▁"]), "no piece for the space"),
    "a space": (model([*PIECES, ("a b", -9.0, NORMAL)]), "no piece with a space"),
    "empty": (model([*PIECES, ("", -9.0, NORMAL)]), "empty"),
    "kind": (model([*PIECES, ("x", -9.0, 9)]), "unknown kind"),
    "not UTF-8": (field(1, field(1, b"\xff")) + model(), "not UTF-8"),
    "endless number": (b"\xff" * 20, "ten bytes"),
    "huge length": (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7fabc", "cut short"),
    "wire type": (b"\x0b", "unknown type"),
    "nothing": (b"", "no BPE"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_would_give_other_ids_is_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(TokenizerError, match=rf"tokenizer\.model: .*({reason})"):
        Tokenizer.from_file(path)


def test_a_cut_or_changed_model_is_refused_or_works() -> None:
    data = model()
    for end in range(0, len(data), 7):
        with pytest.raises(TokenizerError):
            load(data[:end])
    for place in range(0, len(data), 5):
        try:
            tok = load(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        except TokenizerError:
            continue
        assert max(tok.encode("aaa 最\n")) < tok.vocab_size
