"""Packing and streaming beside plain baselines, in one process, in turn.

    python3 dev.py bench data --corpus corpus.jsonl.zst --megabytes 50

Packing: JSONL to checked shards, beside "encode the same documents with the same tokenizer and write the ids"
(our tokenizer alone: what packing adds) and Hugging Face tokenizers doing the same (what people use).
Streaming: shuffled [8, seq_len] int64 batches with positions and document ends, beside a numpy memmap of ids
with random rows, which checks nothing and knows no documents. Both read from the page cache. MB are 10^6
bytes; speeds are per CPU-second.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from corpus import first_texts_of
from rich.console import Console
from rich.table import Table

import penstock

SEQ_LEN = 4096
BATCH_ROWS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="a .jsonl.zst or .jsonl file")
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--batches", type=int, default=2000)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    texts = first_texts_of(options.corpus, int(options.megabytes * 1e6))
    tokenizer = penstock.Tokenizer.train(iter(texts), vocab_size=options.vocab_size)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        packed, ids = pack_all(texts, tokenizer, Path(folder), console)
        stream_all(packed, ids, options.batches, console)


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Of all threads of this process."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def pack_all(
    texts: list[str], tokenizer: penstock.Tokenizer, folder: Path, console: Console
) -> tuple[Path, Path]:
    """Pack three ways; the dataset and the plain ids."""
    source, packed, plain = folder / "text.jsonl", folder / "packed", folder / "ids.bin"
    source.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    megabytes = sum(len(t.encode()) for t in texts) / 1e6
    peer = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    # A tokenizer each, so that no way of ours finds pieces that an earlier one has cached.
    for_pack, for_plain = (pickle.loads(pickle.dumps(tokenizer)) for _ in range(2))

    def ours_plain() -> None:
        for_plain.encode_batch(texts, threads=1).ids.tofile(plain)

    def theirs_plain() -> None:
        encoded = peer.encode_batch_fast(texts, add_special_tokens=False)
        np.concatenate([np.asarray(e.ids, dtype=np.uint32) for e in encoded]).tofile(folder / "peer.bin")

    rows = {
        "penstock.pack": lambda: penstock.pack([source], tokenizer=for_pack, seq_len=SEQ_LEN, out=packed),
        "penstock ids, tofile": ours_plain,
        "HF tokenizers ids, tofile": theirs_plain,
    }
    table = Table("packing", "CPU s", "MB per CPU s", title=f"{megabytes:.0f} MB of text, seq_len {SEQ_LEN}")
    for name, work in rows.items():
        took, result = cpu_seconds(work)
        table.add_row(name, f"{took:.2f}", f"{megabytes / took:.1f}")
        if isinstance(result, penstock.PackReport):
            padding = result.pad_tokens / (result.rows * SEQ_LEN)
            console.print(f"{result.rows} rows, padding {padding:.4%}, documents cut {result.cut_documents}")
    if (folder / "peer.bin").read_bytes() != plain.read_bytes():
        sys.exit("the ids differ: no time is quoted")
    console.print(table)
    return packed, plain


def stream_all(packed: Path, ids: Path, batches: int, console: Console) -> None:
    """Read the same number of batches from both."""
    dataset = penstock.StreamingDataset(packed, global_batch_size=BATCH_ROWS)
    flat = np.memmap(ids, dtype=np.uint32, mode="r")
    draw = np.random.default_rng(0)

    def ours() -> None:
        for _ in range(batches):
            next(dataset)

    def memmap() -> None:
        for _ in range(batches):
            starts = draw.integers(0, len(flat) - SEQ_LEN - 1, BATCH_ROWS)
            np.stack([flat[s : s + SEQ_LEN + 1].astype(np.int64) for s in starts])

    table = Table(
        "streaming", "CPU s", "Mtok per CPU s", title=f"{batches} batches of {BATCH_ROWS} x {SEQ_LEN}"
    )
    for name, work in {"penstock.StreamingDataset": ours, "numpy.memmap": memmap}.items():
        took, _ = cpu_seconds(work)
        table.add_row(name, f"{took:.2f}", f"{batches * BATCH_ROWS * SEQ_LEN / took / 1e6:.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
