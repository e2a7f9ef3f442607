"""Ids that others published: llama.cpp, gpt-tokenizer, transformers.js, and gold ids of HF and tiktoken."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock import Tokenizer

# name -> (file, pattern of a rank file)
VOCABULARIES = {
    "gpt-2": ("gpt-2.tokenizer.json", None),
    "r50k_base": ("gpt-2.tokenizer.json", None),
    "deepseek-llm": ("deepseek-llm.tokenizer.json", None),
    "llama3": ("llama3.tokenizer.json", None),
    "qwen2": ("qwen2.tokenizer.json", None),
    "cl100k_base": ("cl100k_base.tiktoken", "cl100k"),
}


@cache
def load(folder: Path, name: str, pattern: str | None) -> Tokenizer:
    return Tokenizer.from_file(folder / name, pattern=pattern)


def records(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


@pytest.mark.parametrize("name", ["llama_cpp", "gpt_tokenizer", "transformers_js"])
def test_published_vectors(shared: Path, name: str) -> None:
    vocabularies = shared / "eval/tokenizer/vocab"
    checked = 0
    for record in records(shared / f"eval/tokenizer/vectors/{name}.jsonl"):
        file, pattern = VOCABULARIES[record["vocab"]]
        found = load(vocabularies, file, pattern).encode(record["text"])
        assert found == record["ids"], record["id"]
        checked += 1
    assert checked > 60


@pytest.mark.parametrize("name", ["blns", "emoji"])
@pytest.mark.parametrize("vocabulary", ["gpt-2", "deepseek-llm", "llama3", "qwen2", "cl100k_base"])
def test_gold_ids(shared: Path, name: str, vocabulary: str) -> None:
    file, pattern = VOCABULARIES[vocabulary]
    tokenizer = load(shared / "eval/tokenizer/vocab", file, pattern)
    gold = list(records(shared / f"eval/tokenizer/gold/{name}.jsonl"))
    texts = [base64.b64decode(r["b64"]).decode() for r in gold]
    batch = tokenizer.encode_batch(texts)
    for record, text, ids in zip(gold, texts, batch.tolist(), strict=True):
        assert ids == record["ids"][vocabulary], (record["id"], text)
    if vocabulary != "qwen2":  # its NFC normaliser changes text on purpose
        assert tokenizer.decode_batch(batch) == texts


@pytest.mark.parametrize("vocabulary", ["gpt-2", "deepseek-llm", "llama3", "qwen2", "cl100k_base"])
def test_gold_hashes_of_long_texts(shared: Path, vocabulary: str) -> None:
    file, pattern = VOCABULARIES[vocabulary]
    tokenizer = load(shared / "eval/tokenizer/vocab", file, pattern)
    for record in records(shared / "eval/tokenizer/gold/long.jsonl"):
        ids = tokenizer.encode_to_numpy(base64.b64decode(record["b64"]).decode())
        digest = hashlib.sha256(ids.astype("<u4").tobytes()).hexdigest()
        assert {"n": len(ids), "sha256": digest} == record["ids_hash"][vocabulary], record["id"]


@pytest.mark.parametrize(("file", "pattern"), [("llama3.tiktoken", "llama3"), ("qwen.tiktoken", "qwen2")])
def test_rank_files_equal_tiktoken(shared: Path, file: str, pattern: str, stdlib_texts: list[str]) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import load_tiktoken_bpe

    path = shared / "eval/tokenizer/vocab" / file
    digits = {"llama3": r"\p{N}{1,3}", "qwen2": r"\p{N}"}[pattern]
    split = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    peer = tiktoken.Encoding(
        "peer", pat_str=split, mergeable_ranks=load_tiktoken_bpe(str(path)), special_tokens={}
    )
    ours = Tokenizer.from_file(path, pattern=pattern)
    for text in [*stdlib_texts[:40], "汉字かな交じり文と한국어\r\n\t١٢٣٤ 🏳️‍🌈" * 50]:
        assert np.array_equal(ours.encode_to_numpy(text), peer.encode_ordinary(text))


def test_known_splits_are_recognised(shared: Path) -> None:
    names = {"gpt-2": "gpt2", "deepseek-llm": "deepseek-llm", "llama3": "llama3", "qwen2": "qwen2"}
    for file, pattern in names.items():
        path = shared / f"eval/tokenizer/vocab/{file}.tokenizer.json"
        assert Tokenizer.from_file(path).pattern == pattern
