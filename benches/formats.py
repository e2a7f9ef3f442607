"""What surrounds plain encoding: short texts, split boundary tokens, dropout, files, loading, other formats.

    python3 dev.py bench formats --tokenizer tokenizer.json --corpus corpus.jsonl --megabytes 20
    ... --model tokenizer.model    # beside sentencepiece, where that is installed

One thread, the least of several visits, interleaved; ids that must agree are compared before any time counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tokenizers
from corpus import texts_of
from rich.console import Console
from rich.table import Table

import penstock

Times = dict[str, float]
CALLS = 2000
SHORT = "Hello world"
LONGER = "The quick brown fox jumps over the lazy dog. " * 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json with joining tokens")
    parser.add_argument("--corpus", type=Path, required=True, help="a .jsonl or .jsonl.zst file")
    parser.add_argument("--model", type=Path, help="a SentencePiece model")
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--visits", type=int, default=3)
    options = parser.parse_args()
    texts = read(options.corpus, int(options.megabytes * 1e6))
    size = sum(len(t.encode()) for t in texts) / 1e6
    console = Console()
    console.print(
        f"penstock {penstock.__version__}, tokenizers {tokenizers.__version__}; {size:.1f} MB of text"
    )
    with tempfile.TemporaryDirectory() as folder:
        show(console, "load, ms", loading(options.tokenizer, Path(folder), options.visits), 1e3)
        show(console, "microseconds a call", calling(options.tokenizer, options.visits), 1e6 / CALLS)
        times = encoding(options.tokenizer, texts, Path(folder), options.visits)
        show(console, "MB/s, all text", {name: size / seconds for name, seconds in times.items()})
        few = read(options.corpus, 1_000_000)
        few_size = sum(len(t.encode()) for t in few) / 1e6
        times = dropping(options.tokenizer, few, options.visits)
        show(console, "MB/s, 1 MB with dropout 0.1", {n: few_size / seconds for n, seconds in times.items()})
        if options.model:
            times = pieces(options.model, few, options.visits)
            show(console, "MB/s, 1 MB by the model", {n: few_size / seconds for n, seconds in times.items()})


def read(path: Path, limit: int) -> list[str]:
    texts: list[str] = []
    size = 0
    for text in texts_of(path):
        if size >= limit:
            break
        texts.append(text)
        size += len(text.encode())
    return texts


def least(visits: int, work: dict[str, Callable[[], object]]) -> Times:
    times = dict.fromkeys(work, float("inf"))
    for _ in range(visits):
        for name, run in work.items():
            began = time.perf_counter()
            run()
            times[name] = min(times[name], time.perf_counter() - began)
    return times


def loading(path: Path, folder: Path, visits: int) -> Times:
    cache = folder / "cache"
    plain = penstock.Tokenizer.from_file(path)
    assert penstock.Tokenizer.from_file(path, cache=cache) == plain
    work: dict[str, Callable[[], object]] = {
        "tokenizer.json": lambda: penstock.Tokenizer.from_file(path),
        "with a cache": lambda: penstock.Tokenizer.from_file(path, cache=cache),
        "Hugging Face tokenizers": lambda: tokenizers.Tokenizer.from_file(str(path)),
    }
    return least(visits, work)


def calling(path: Path, visits: int) -> Times:
    """What each of many calls costs, each with one text."""
    tok, peer = penstock.Tokenizer.from_file(path), tokenizers.Tokenizer.from_file(str(path))
    work: dict[str, Callable[[], object]] = {}
    for text in (SHORT, LONGER):
        assert tok.encode(text) == peer.encode(text, add_special_tokens=False).ids
        size = f"{len(text)} bytes"
        work[f"encode, {size}"] = lambda text=text: [tok.encode(text) for _ in range(CALLS)]
        work[f"encode_to_numpy, {size}"] = lambda text=text: [tok.encode_to_numpy(text) for _ in range(CALLS)]
        work[f"Hugging Face tokenizers, {size}"] = lambda text=text: [
            peer.encode(text, add_special_tokens=False).ids for _ in range(CALLS)
        ]
    return least(visits, work)


def encoding(path: Path, texts: list[str], folder: Path, visits: int) -> Times:
    tok = penstock.Tokenizer.from_file(path)
    lines = folder / "texts.jsonl"
    lines.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    plain = tok.encode_batch(texts, threads=1)
    assert tok.encode_files(lines, threads=1).tolist() == plain.tolist()

    def from_strings() -> object:
        with lines.open(encoding="utf-8") as file:
            return tok.encode_batch([json.loads(line)["text"] for line in file], threads=1)

    work: dict[str, Callable[[], object]] = {
        "encode_batch": lambda: tok.encode_batch(texts, threads=1),
        "with boundary_split=0.1": lambda: tok.encode_batch(texts, boundary_split=0.1, threads=1),
        "encode_files of JSONL": lambda: tok.encode_files(lines, threads=1),
        "json.loads and encode_batch": from_strings,
    }
    return least(visits, work)


def dropping(path: Path, texts: list[str], visits: int) -> Times:
    tok = penstock.Tokenizer.from_file(path)
    file = json.loads(path.read_text(encoding="utf-8"))
    file["model"]["dropout"] = 0.1
    peer = tokenizers.Tokenizer.from_str(json.dumps(file))
    work: dict[str, Callable[[], object]] = {
        "penstock": lambda: tok.encode_batch(texts, dropout=0.1, threads=1),
        "Hugging Face tokenizers": lambda: [peer.encode(t, add_special_tokens=False) for t in texts],
    }
    return least(visits, work)


def pieces(path: Path, texts: list[str], visits: int) -> Times:
    import sentencepiece

    tok = penstock.Tokenizer.from_file(path)
    peer = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert tok.encode_batch(texts).tolist() == peer.encode(texts)
    work: dict[str, Callable[[], object]] = {
        "penstock": lambda: tok.encode_batch(texts, threads=1),
        "sentencepiece": lambda: peer.encode(texts, num_threads=1),
    }
    return least(visits, work)


def show(console: Console, title: str, values: Times, scale: float = 1) -> None:
    table = Table("", title)
    for name, value in values.items():
        table.add_row(name, f"{value * scale:,.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
