"""Files encoded without Python strings: the same tokens as their texts, and errors that name the place."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import penstock
from penstock.jobs import Progress

TEXTS = [
    "one.\n",
    "",
    "二つ目。\n\n",
    "a <|endoftext|> b",
    "\ufeff🙂 naïve\r\n",
    *(f"text {i}:\n" * i for i in range(400)),
]


@pytest.fixture(scope="module")
def tokenizer(stdlib_texts: list[str]) -> penstock.Tokenizer:
    return penstock.Tokenizer.train(stdlib_texts[:30], vocab_size=1500)


def write(folder: Path, kind: str, texts: list[str]) -> Path:
    path = folder / f"texts.{kind}"
    lines = "".join(json.dumps({"body": text}) + "\n" for text in texts).encode()
    table = pyarrow.table({"body": texts})
    if kind == "jsonl":
        path.write_bytes(lines)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(lines))
    elif kind == "jsonl.zst":
        path.write_bytes(pyarrow.Codec("zstd").compress(lines, asbytes=True))
    elif kind == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=50)
    elif kind == "arrow":
        with pyarrow.ipc.new_file(path, table.schema) as file:
            file.write_table(table, max_chunksize=70)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "parquet", "arrow"])
def test_every_kind_gives_the_ids_of_its_texts(
    tokenizer: penstock.Tokenizer, tmp_path: Path, kind: str
) -> None:
    batch = tokenizer.encode_files(write(tmp_path, kind, TEXTS), text_field="body")
    assert batch.ids.dtype == np.uint32
    assert batch.offsets.dtype == np.int64
    assert batch.tolist() == tokenizer.encode_batch(TEXTS).tolist()


def test_files_keep_their_order_whatever_the_threads(tokenizer: penstock.Tokenizer, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.txt" for i in range(9)]
    for i, path in enumerate(paths):
        path.write_text(f"file {i}.\n" * (1 + 20_000 * (i % 3)), encoding="utf-8", newline="")
    paths.insert(4, write(tmp_path, "jsonl", TEXTS))
    order = paths[::-1]
    expected = [p.read_bytes().decode() if p.suffix == ".txt" else None for p in order]
    at = expected.index(None)
    texts = [*expected[:at], *TEXTS, *expected[at + 1 :]]
    wanted = [[*ids, tokenizer.eot_id] for ids in tokenizer.encode_batch(texts, boundary_split=0.5, seed=3)]  # type: ignore[arg-type]
    for threads in (1, 2, 3, 8):
        options = {"end_of_text": True, "boundary_split": 0.5, "seed": 3, "threads": threads}
        batch = tokenizer.encode_files(order, text_field="body", **options)  # type: ignore[arg-type]
        assert batch.tolist() == wanted


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_merges_are_dropped_as_from_texts(
    tokenizer: penstock.Tokenizer, tmp_path: Path, threads: int
) -> None:
    path = write(tmp_path, "jsonl", TEXTS)
    for boundary_split in (0.0, 0.5):
        wanted = tokenizer.encode_batch(TEXTS, boundary_split=boundary_split, dropout=0.2, seed=7)
        found = tokenizer.encode_files(
            path, text_field="body", boundary_split=boundary_split, dropout=0.2, seed=7, threads=threads
        )
        assert found.tolist() == wanted.tolist()
    with pytest.raises(penstock.ConfigError, match="dropout"):
        tokenizer.encode_files(path, text_field="body", dropout=1.5)


def test_progress_ends_at_all_bytes(tokenizer: penstock.Tokenizer, tmp_path: Path) -> None:
    seen: list[Progress] = []
    path = write(tmp_path, "jsonl", TEXTS)
    tokenizer.encode_files([path], text_field="body", progress=seen.append)
    assert (seen[-1].stage, seen[-1].done, seen[-1].total) == ("encode", *[path.stat().st_size] * 2)


def test_bad_files_are_named_with_the_place(tokenizer: penstock.Tokenizer, tmp_path: Path) -> None:
    good = write(tmp_path, "jsonl", TEXTS)
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b'{"body": "x"}\n{"body": "\xff"}\n')
    with pytest.raises(penstock.InputError, match=r"bad\.jsonl.*line 2"):
        tokenizer.encode_files([good, bad, good], text_field="body")
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(write(tmp_path, "jsonl.gz", TEXTS).read_bytes()[:-20])
    with pytest.raises(penstock.InputError, match=re.escape(str(cut))):
        tokenizer.encode_files([cut], text_field="body")
    for paths, words in (
        ([], "input"),
        ([tmp_path / "none.txt"], "none.txt"),
        ([tmp_path / "x.doc"], "x.doc"),
    ):
        with pytest.raises(penstock.InputError, match=words):
            tokenizer.encode_files(paths)
    with pytest.raises(penstock.ConfigError, match="max_line_bytes"):
        tokenizer.encode_files([good], max_line_bytes=1)
