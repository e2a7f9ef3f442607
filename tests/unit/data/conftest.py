"""A small corpus in several files, its tokenizer, and its packed dataset."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

import penstock

SEQ_LEN = 64


@pytest.fixture(scope="session")
def documents() -> list[str]:
    """Texts of very different lengths; every one is distinct."""
    draw = random.Random(3)
    words = ["row", "batch", "shard", "token", "パイプ", "größe", "0x1f", "{", "}", "\n", "def", "=="]
    lengths = [draw.choice([1, 3, 10, 40, 200, 900]) for _ in range(600)]
    return [f"{i}: " + " ".join(draw.choices(words, k=n)) for i, n in enumerate(lengths)]


@pytest.fixture(scope="session")
def corpus(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("corpus")
    files = []
    for part in range(3):
        path = folder / f"part-{part}.jsonl"
        lines = [
            json.dumps({"text": text, "source": f"label-{i % 2}", "id": f"doc:{i}"})
            for i, text in enumerate(documents)
            if i % 3 == part
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        files.append(path)
    return files


@pytest.fixture(scope="session")
def tokenizer(documents: list[str]) -> penstock.Tokenizer:
    return penstock.Tokenizer.train(iter(documents), vocab_size=400)


@pytest.fixture(scope="session")
def packed(
    corpus: list[Path], tokenizer: penstock.Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, penstock.PackReport]:
    out = tmp_path_factory.mktemp("packed") / "data"
    return out, penstock.pack(corpus, tokenizer=tokenizer, seq_len=SEQ_LEN, out=out, shard_bytes=60_000)


@pytest.fixture(scope="session")
def rebuild() -> Callable[[Path, int], list[list[int]]]:
    """Reads a dataset back without our reader."""
    return rebuild_documents


def rebuild_documents(folder: Path, seq_len: int) -> list[list[int]]:
    """The tokens of every document, its repeated lookahead left out.

    It shares no code with ours: pyarrow, and the rule of docs/format.md, section 2.
    """
    parts: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for shard in sorted((folder / "shards").glob("*.arrow")):
        for row in pyarrow.ipc.open_file(shard).read_all().to_pylist():
            start = 0
            for end, doc_id in zip(row["doc_ends"], row["doc_ids"], strict=True):
                parts[doc_id].append((start, row["tokens"][start:end]))
                start = end
    documents = []
    for pieces in parts.values():
        tokens: list[int] = []
        next_at = 0
        for start, piece in pieces:
            assert tokens[next_at:] == piece[: len(tokens) - next_at], "what is repeated is the same"
            tokens = tokens[:next_at] + piece
            next_at += seq_len - start
        documents.append(tokens)
    return documents
