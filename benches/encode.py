"""Encoding beside the fast tokenizers of today: same vocabulary and texts, interleaved, fresh processes.

    python3 dev.py bench encode --tokenizer tokenizer.json --corpus train-*.jsonl.zst --megabytes 52 \
        --peers fastokens=peers/bin/python gigatoken=peers/bin/python tokenizers1=hf1/bin/python

Peers live in virtual environments of their own (pip install numpy and fastokens, gigatoken, tokie, or
tokenizers==1.0.0rc3), named with their Python; each is optional. Texts are drawn by the corpus's `source`
field: English, Chinese, code, mixed. The ids of Hugging Face tokenizers 0.23, which the environment of this
program has, are made once a sample and kept; a program whose ids differ gets no time. Without them, and of
hostile texts, ids must equal those of the first visit. Cold is the first pass of a process over the texts,
warm the second over the same; one thread is timed by its CPU time, more by the clock; MB are 10^6 bytes of
UTF-8. `--threads 1 2 16` sets several counts side by side, all by the clock, with ratios to the first; for
penstock alone, numpy and zstandard are all that needs to be installed:

    PYTHONPATH=python python3 benches/encode.py --tokenizer tokenizer.json --corpus train-000.jsonl.zst \
        --threads 1 2 16 --visits 8

`--lists` asks for a list of ids a text instead of arrays, `--single` for one 12 MB string, `--hostile` for
nanoseconds per byte of texts that break merge loops, by size.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from corpus import sourced_texts_of
from encode_report import report

SOURCES: dict[str, Callable[[str], bool]] = {
    "english": lambda source: source == "en",
    "chinese": lambda source: source == "zh",
    "code": lambda source: source.startswith("code-"),
    "mixed": lambda source: True,
}
HOSTILE_SIZES = [1 << 16, 1 << 20, 1 << 22, 1 << 24, 1 << 26]
SINGLE_BYTES = 12_000_000

Encode = Callable[[list[str]], tuple[np.ndarray, np.ndarray]]


def main() -> None:
    options = parse()
    if options.worker:
        return work(options)
    options.work.mkdir(parents=True, exist_ok=True)
    samples = hostile_samples(options) if options.hostile else corpus_samples(options)
    rows = visit_all(samples, gold_of(samples, options), options)
    report(rows, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json")
    parser.add_argument("--corpus", type=Path, nargs="*", default=[], help=".jsonl or .jsonl.zst files")
    parser.add_argument("--megabytes", type=float, default=52)
    parser.add_argument("--samples", nargs="*", default=list(SOURCES), choices=list(SOURCES))
    parser.add_argument("--peers", nargs="*", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="several are compared")
    parser.add_argument("--visits", type=int, default=3)
    parser.add_argument("--lists", action="store_true", help="lists of ids instead of arrays")
    parser.add_argument("--single", action="store_true", help="one 12 MB string")
    parser.add_argument("--hostile", action="store_true", help="ns per byte of hostile texts by size")
    parser.add_argument(
        "--seconds", type=float, default=20, help="a hostile text that takes longer ends a row"
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "penstock-bench-encode")
    parser.add_argument("--out", type=Path, help="write rows to OUT.csv and OUT.json")
    parser.add_argument(
        "--plot", type=Path, help="write a PNG: MB/s by tokenizer and text (needs matplotlib)"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--sample", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--wall", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


# ---- Samples


def corpus_samples(options: argparse.Namespace) -> dict[str, Path]:
    """A file of texts a language, made once."""
    limit = SINGLE_BYTES if options.single else int(options.megabytes * 1e6)
    kind = "single" if options.single else "documents"
    paths = {name: options.work / f"{name}-{kind}-{limit}.json" for name in options.samples}
    missing = {name: path for name, path in paths.items() if not path.exists()}
    if missing:
        for name, texts in drawn(options.corpus, set(missing), limit).items():
            texts = ["\n".join(texts)] if options.single else texts
            missing[name].write_text(json.dumps(texts), encoding="utf-8")
    return paths


def drawn(corpus: list[Path], names: set[str], limit: int) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {name: [] for name in names}
    sizes = dict.fromkeys(names, 0)
    for source, text in chain.from_iterable(map(sourced_texts_of, corpus)):
        for name in names:
            if sizes[name] < limit and SOURCES[name](source):
                texts[name].append(text)
                sizes[name] += len(text.encode())
        if all(size >= limit for size in sizes.values()):
            break
    return texts


def hostile_samples(options: argparse.Namespace) -> dict[str, Path]:
    """Texts of 64 KiB to 64 MiB that are one piece, or nearly."""
    draw = random.Random(1)
    makers: dict[str, Callable[[int], str]] = {
        "letter": lambda size: "a" * size,
        "spaces": lambda size: " " * size,
        "newlines": lambda size: "\n" * size,
        "word": lambda size: "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=size)),
        "hanzi": lambda size: "".join(map(chr, draw.choices(range(0x4E00, 0x9FA6), k=size // 3))),
        "bytes": lambda size: draw.randbytes(size // 2).decode("latin-1"),
    }
    paths = {}
    for name, make in makers.items():
        for size in HOSTILE_SIZES:
            path = options.work / f"{name}-{size}.json"
            if not path.exists():
                path.write_text(json.dumps([make(size)]), encoding="utf-8")
            paths[f"{name} {size >> 10} KiB"] = path
    return paths


def gold_of(samples: dict[str, Path], options: argparse.Namespace) -> dict[str, str]:
    """Digests of the reference's ids, each computed once."""
    if options.hostile:
        return {}
    if importlib.util.find_spec("tokenizers") is None:
        print("tokenizers is not installed: ids are compared with those of the first visit", file=sys.stderr)
        return {}
    import tokenizers

    vocabulary = hashlib.sha256(options.tokenizer.read_bytes()).hexdigest()[:8]
    gold = {}
    for name, sample in samples.items():
        path = sample.with_suffix(f".{vocabulary}.{tokenizers.__version__}.sha256")
        if not path.exists():
            print(f"ids of tokenizers {tokenizers.__version__} for {sample.name} ...", file=sys.stderr)
            reference = tokenizers.Tokenizer.from_file(str(options.tokenizer))
            path.write_text(digest(*hf_encode(reference)(json.loads(sample.read_bytes()))))
        gold[name] = path.read_text()
    return gold


def digest(ids: np.ndarray, offsets: np.ndarray) -> str:
    state = hashlib.sha256(np.ascontiguousarray(ids, dtype=np.uint32))
    state.update(np.ascontiguousarray(offsets, dtype=np.int64))
    return state.hexdigest()


# ---- Programs


def hf_encode(reference: Any) -> Encode:
    def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids, lens = [], []
        for start in range(0, len(texts), 256):
            for encoding in reference.encode_batch_fast(texts[start : start + 256], add_special_tokens=False):
                ids.append(np.asarray(encoding.ids, dtype=np.uint32))
                lens.append(len(ids[-1]))
        return np.concatenate(ids), ends(lens)

    return encode


def ends(lens: Any) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.asarray(lens, dtype=np.int64))])


def load(
    name: str, path: Path, threads: int, lists: bool
) -> tuple[str, Callable[[list[str]], Any], Callable[[Any], Any]]:
    """The program's version, what is timed, and what turns its answer into ids and offsets."""
    if name == "penstock":
        import penstock

        ours = penstock.Tokenizer.from_file(path)
        timed = lambda texts: ours.encode_batch(texts, allowed_special="all", threads=threads)  # noqa: E731
        if lists:
            return penstock.__version__, lambda texts: timed(texts).tolist(), from_lists
        return penstock.__version__, timed, lambda batch: (batch.ids, batch.offsets)
    version = version_of("tokenizers" if name.startswith("tokenizers") else name)
    if name == "fastokens":
        import fastokens

        peer = fastokens.Tokenizer.from_file(str(path))
        if lists:
            return version, lambda texts: [e.ids for e in peer.encode_batch(texts)], from_lists
        unpack = lambda r: (np.frombuffer(r[0], np.uint32), np.frombuffer(r[1], np.uint64))  # noqa: E731
        return version, peer.encode_batch_flat, unpack
    if name == "gigatoken":
        import gigatoken

        peer = gigatoken.Tokenizer.from_json(path.read_text(encoding="utf-8"))
        encode, unpack = (peer.encode_batch_list, from_lists) if lists else (peer.encode_batch, from_awkward)
        return version, lambda texts: encode(texts, parallel=threads > 1), unpack
    if name == "tokie":
        import tokie

        peer = tokie.Tokenizer.from_json(str(path))
        timed = lambda texts: peer.encode_batch_flat(texts, add_special_tokens=False)  # noqa: E731
        return version, timed, lambda r: (r[0], ends(r[1]))
    if name == "tokenizers1":
        import tokenizers

        peer = tokenizers.Tokenizer.from_file(str(path))
        timed = lambda texts: peer.encode_batch(texts, add_special_tokens=False)  # noqa: E731
        if lists:
            return version, lambda texts: [e.ids for e in timed(texts)], from_lists
        return version, timed, lambda encodings: from_lists([e.ids for e in encodings])
    sys.exit(f"no adapter for {name}")


def version_of(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def from_awkward(array: Any) -> tuple[np.ndarray, np.ndarray]:
    import awkward

    plain = awkward.Array(array)
    return np.asarray(awkward.flatten(plain)), ends(awkward.num(plain))


def from_lists(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    parts = [np.asarray(part, dtype=np.uint32) for part in lists]
    return np.concatenate(parts), ends([len(part) for part in parts])


def work(options: argparse.Namespace) -> None:
    """One visit: load, encode twice, print a line of JSON."""
    texts = json.loads(options.sample.read_bytes())
    size = sum(len(text.encode()) for text in texts)
    began = time.perf_counter()
    version, timed, unpack = load(options.worker, options.tokenizer, options.threads[0], options.lists)
    timed(["first call"])
    loaded = time.perf_counter() - began
    seconds = []
    # On a shared machine one thread's own time says more than the clock on the wall.
    clock = time.perf_counter if options.wall else time.process_time
    for _ in range(2):
        began = clock()
        result = timed(texts)
        seconds.append(clock() - began)
    found = digest(*unpack(result))
    print(
        json.dumps({"version": version, "bytes": size, "load": loaded, "seconds": seconds, "sha256": found})
    )


# ---- The run


def visit_all(samples: dict[str, Path], gold: dict[str, str], options: argparse.Namespace) -> list[Any]:
    """All programs round robin; rows of program, threads, sample and seconds."""
    programs = {"penstock": sys.executable, **dict(peer.split("=", 1) for peer in options.peers)}
    contenders = [(program, threads) for program in programs for threads in options.threads]
    rows: dict[tuple[str, int, str], dict[str, Any]] = {}
    given_up: set[tuple[str, int, str]] = set()
    for _ in range(1 if options.hostile else options.visits):
        for sample, path in samples.items():
            for program, threads in contenders:
                family = (program, threads, sample.split()[0])
                if family in given_up:
                    continue
                visit = visit_once(program, programs[program], threads, path, options)
                if visit is None or (options.hostile and sum(visit["seconds"]) > options.seconds):
                    given_up.add(family)
                if visit is None:
                    continue
                row = rows.setdefault(
                    (program, threads, sample),
                    {"program": f"{program} {visit['version']}", "threads": threads, "sample": sample}
                    | {"bytes": visit["bytes"], "wrong": False, "cold": [], "warm": [], "load": []},
                )
                row["wrong"] |= visit["sha256"] != gold.setdefault(sample, visit["sha256"])
                row["cold"].append(visit["seconds"][0])
                row["warm"].append(visit["seconds"][1])
                row["load"].append(visit["load"])
    return list(rows.values())


def visit_once(program: str, python: str, threads: int, path: Path, options: argparse.Namespace) -> Any:
    variables = ["RAYON_NUM_THREADS", "TOKENIZERS_NUM_THREADS", "FASTOKENS_NUM_THREADS"]
    limits = dict.fromkeys(variables, str(threads))
    limits["TOKENIZERS_PARALLELISM"] = "false" if threads == 1 else "true"
    command = [python, __file__, "--tokenizer", str(options.tokenizer), "--threads", str(threads)]
    command += ["--worker", program, "--sample", str(path)] + ["--lists"] * options.lists
    command += ["--wall"] * (options.threads != [1])
    done = subprocess.run(command, env=os.environ | limits, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"{program} failed on {path.name}: {done.stderr.strip()[-300:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
