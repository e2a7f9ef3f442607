"""Tokenizer training and encoding beside Hugging Face tokenizers, in one process, interleaved.

    python3 dev.py bench tokenizer --corpus corpus.jsonl.zst --megabytes 20 --vocab-size 32000

Ids and merges are compared before a time is printed. MB are 10^6 bytes of UTF-8.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from corpus import texts_of
from rich.console import Console
from rich.table import Table

import penstock

DEEPSEEK_V3 = [
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--corpus", type=Path, help="a .jsonl.zst or .jsonl file; default: the standard library"
    )
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--vocab-size", type=int, default=32_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--visits", type=int, default=3)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false" if options.threads == 1 else "true"
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    texts = read(options.corpus, int(options.megabytes * 1e6))
    megabytes = sum(len(t.encode()) for t in texts) / 1e6
    console = Console()
    console.print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, penstock "
        f"{penstock.__version__}, tokenizers {tokenizers.__version__}; {len(texts)} texts, {megabytes:.1f} MB"
    )
    ours, peer = train_both(texts, options.vocab_size, megabytes, console)
    encode_both(ours, peer, texts, megabytes, options, console)


def read(path: Path | None, limit_bytes: int) -> list[str]:
    """Texts until ``limit_bytes`` are read."""
    texts: list[str] = []
    size = 0
    for text in texts_of(path) if path else library_texts():
        texts.append(text)
        size += len(text.encode())
        if size >= limit_bytes:
            break
    return texts


def library_texts() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts:
            yield path.read_text(encoding="utf-8", errors="replace")


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def train_both(
    texts: list[str], vocab_size: int, megabytes: float, console: Console
) -> tuple[penstock.Tokenizer, tokenizers.Tokenizer]:
    """Train both on the same texts and require the same merges."""
    our_seconds, ours = seconds(lambda: penstock.Tokenizer.train(iter(texts), vocab_size=vocab_size))
    peer_seconds, peer = seconds(lambda: train_peer(texts, vocab_size))
    model = json.loads(peer.to_str())["model"]
    if json.loads(ours.to_json())["model"]["merges"] != model["merges"]:
        sys.exit("the merges differ: no time is quoted")
    table = Table("training", "seconds", "MB/s", "ratio", title=f"{vocab_size} tokens")
    table.add_row("penstock", f"{our_seconds:.2f}", f"{megabytes / our_seconds:.1f}", "1.0")
    ratio = peer_seconds / our_seconds
    table.add_row(
        "tokenizers", f"{peer_seconds:.2f}", f"{megabytes / peer_seconds:.1f}", f"{ratio:.1f}x slower"
    )
    console.print(table)
    return ours, peer


def train_peer(texts: list[str], vocab_size: int) -> tokenizers.Tokenizer:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    peer = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Split(Regex(p), "isolated") for p in DEEPSEEK_V3]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    peer.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    peer.train_from_iterator(texts, trainer)
    return peer


def encode_both(
    ours: penstock.Tokenizer,
    peer: tokenizers.Tokenizer,
    texts: list[str],
    megabytes: float,
    options: argparse.Namespace,
    console: Console,
) -> None:
    """Visit the programs in turn; the first visit is cold, the last ones are warm."""
    runs: dict[str, list[float]] = {"penstock": [], "tokenizers": []}
    for _ in range(options.visits):
        took, batch = seconds(lambda: ours.encode_batch(texts, threads=options.threads))
        runs["penstock"].append(took)
        took, encodings = seconds(lambda: peer.encode_batch_fast(texts, add_special_tokens=False))
        runs["tokenizers"].append(took)
        theirs = np.concatenate([np.asarray(e.ids, dtype=np.uint32) for e in encodings])
        if not np.array_equal(batch.ids, theirs):
            sys.exit("the ids differ: no time is quoted")
    table = Table(
        "encoding", "first, MB/s", "median, MB/s", "ratio", title=f"{options.threads} thread(s) each"
    )
    best = megabytes / statistics.median(runs["penstock"])
    for name, took in runs.items():
        speed = megabytes / statistics.median(took)
        table.add_row(name, f"{megabytes / took[0]:.1f}", f"{speed:.1f}", f"{speed / best:.3f}")
    console.print(table)


if __name__ == "__main__":
    main()
