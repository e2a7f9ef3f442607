"""Where tokens lie in the text: as Hugging Face tokenizers say, and in bytes."""

from __future__ import annotations

import base64
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Peer

import penstock

HARD = [
    "", " ", "a", "naïve café\n\n  x", "日本語のテキスト。\n", "🙂🙂👩‍👩‍👧 1234567", "ﷺ Ǆ \u200d\u0000",
    "<|endoftext|>", "a <|pad|>  b<mask> c", "x<mask>", "  <mask>\t<mask>é", "𝒳𝒴 <|pad|>𝒵",
]  # fmt: skip
texts = st.text(max_size=80) | st.lists(st.sampled_from([*HARD, "é", "日", "🙂", "\n"]), max_size=8).map(
    "".join
)


def as_peer(text: str) -> Peer:
    """HF's tokenizer of the same file. Its post-processor would trim white space off the offsets."""
    return Peer.from_str(json.dumps({**json.loads(text), "post_processor": None}))


@pytest.fixture(scope="module")
def tokenizer(stdlib_texts: list[str]) -> penstock.Tokenizer:
    """With few merges, so that characters lie in several tokens; and added tokens with every flag."""
    tok = penstock.Tokenizer.train(
        stdlib_texts[:20], vocab_size=600, special_tokens=["<|endoftext|>", "<|pad|>"]
    )
    file = json.loads(tok.to_json())
    flags = {"single_word": False, "lstrip": True, "rstrip": True, "normalized": False, "special": False}
    file["added_tokens"].append({"id": tok.vocab_size, "content": "<mask>", **flags})
    return penstock.Tokenizer(penstock._core.Tokenizer.from_json(json.dumps(file)))


@pytest.fixture(scope="module")
def peer(tokenizer: penstock.Tokenizer) -> Peer:
    return as_peer(tokenizer.to_json())


def check(ours: penstock.Tokenizer, peer: Peer, text: str) -> None:
    expected = peer.encode(text, add_special_tokens=False)
    ids, offsets = ours.encode_with_offsets(text, allowed_special="all")
    assert ids.tolist() == expected.ids == ours.encode(text, allowed_special="all")
    assert [tuple(pair) for pair in offsets.tolist()] == expected.offsets
    _, places = ours.encode_with_offsets(text, allowed_special="all", unit="bytes")
    raw = text.encode()
    for token, (start, end) in zip(ids.tolist(), places.tolist(), strict=True):
        assert ours.id_to_bytes(token) == raw[start:end].strip() or ours.id_to_bytes(token) == raw[start:end]
    assert b"".join(raw[start:end] for start, end in places.tolist()) == raw


@settings(max_examples=300, deadline=None)
@given(text=texts)
def test_offsets_are_those_of_hf(tokenizer: penstock.Tokenizer, peer: Peer, text: str) -> None:
    check(tokenizer, peer, text)


@pytest.mark.parametrize("name", ["gpt-2", "llama3", "deepseek-llm"])
def test_offsets_of_known_vocabularies(shared: Path, name: str) -> None:
    path = shared / f"eval/tokenizer/vocab/{name}.tokenizer.json"
    ours, peer = penstock.Tokenizer.from_file(path), as_peer(path.read_text(encoding="utf-8"))
    gold = (shared / "eval/tokenizer/gold/blns.jsonl").read_text(encoding="utf-8").splitlines()
    for text in [*HARD, *(base64.b64decode(json.loads(line)["b64"]).decode() for line in gold)]:
        check(ours, peer, text)


def test_normalised_text_has_none(shared: Path) -> None:
    path = shared / "eval/tokenizer/vocab/qwen2.tokenizer.json"
    ours, peer = penstock.Tokenizer.from_file(path), as_peer(path.read_text(encoding="utf-8"))
    for text in (*HARD, "é", "\u1112\u1161"):
        if unicodedata.is_normalized("NFC", text):
            check(ours, peer, text)
    with pytest.raises(penstock.TokenizerError, match="NFC changes the text"):
        ours.encode_with_offsets("cafe\u0301 noir")


def test_a_unit_that_is_none(tokenizer: penstock.Tokenizer) -> None:
    with pytest.raises(penstock.ConfigError, match="unit"):
        tokenizer.encode_with_offsets("a", unit="words")  # type: ignore[arg-type]
