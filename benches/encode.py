"""Encoding beside the fast tokenizers of today: same vocabulary and texts, interleaved, fresh processes.

    python3 dev.py bench encode --tokenizer tokenizer.json --corpus train-*.jsonl.zst --megabytes 52 \
        --peers fastokens=peers/bin/python gigatoken=peers/bin/python tokenizers1=hf1/bin/python

Peers live in virtual environments of their own (pip install numpy and fastokens, gigatoken, tokie, or
tokenizers==1.0.0rc3), named with their Python; each is optional. Texts are drawn by the corpus's `source`
field: English, Chinese, code, mixed. The ids of Hugging Face tokenizers 0.23, which the environment of this
program has, are made once a sample and kept; a program whose ids differ gets no time. Cold is the first pass
of a process over the texts, warm the second over the same; one thread is timed by its CPU time, more by the
clock; MB are 10^6 bytes of UTF-8. `--lists` asks for a list of ids a text instead of arrays, `--single` for
one 12 MB string, `--hostile` for nanoseconds per byte of texts that break merge loops, by size.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

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
    gold = {} if options.hostile else {name: gold_of(path, options) for name, path in samples.items()}
    rows = visit_all(samples, gold, options)
    report(rows, options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json")
    parser.add_argument("--corpus", type=Path, nargs="*", default=[], help=".jsonl or .jsonl.zst files")
    parser.add_argument("--megabytes", type=float, default=52)
    parser.add_argument("--samples", nargs="*", default=list(SOURCES), choices=list(SOURCES))
    parser.add_argument("--peers", nargs="*", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--threads", type=int, default=1)
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
    for document in documents(corpus):
        for name in names:
            if sizes[name] < limit and SOURCES[name](document.get("source", "")):
                texts[name].append(document["text"])
                sizes[name] += len(document["text"].encode())
        if all(size >= limit for size in sizes.values()):
            break
    return texts


def documents(corpus: list[Path]) -> Iterator[dict[str, str]]:
    for path in corpus:
        if path.suffix == ".zst":
            import zstandard

            lines: Any = zstandard.open(path, "rt", encoding="utf-8")
        else:
            lines = path.open(encoding="utf-8")
        with lines:
            yield from map(json.loads, lines)


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


def gold_of(sample: Path, options: argparse.Namespace) -> str:
    """Digest of the reference's ids for a sample, computed once."""
    import tokenizers

    vocabulary = hashlib.sha256(options.tokenizer.read_bytes()).hexdigest()[:8]
    path = sample.with_suffix(f".{vocabulary}.{tokenizers.__version__}.sha256")
    if not path.exists():
        print(f"ids of tokenizers {tokenizers.__version__} for {sample.name} ...", file=sys.stderr)
        reference = tokenizers.Tokenizer.from_file(str(options.tokenizer))
        path.write_text(digest(*hf_encode(reference)(json.loads(sample.read_bytes()))))
    return path.read_text()


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
    version, timed, unpack = load(options.worker, options.tokenizer, options.threads, options.lists)
    timed(["first call"])
    loaded = time.perf_counter() - began
    seconds = []
    # On a shared machine one thread's own time says more than the clock on the wall.
    clock = time.process_time if options.threads == 1 else time.perf_counter
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
    """All programs round robin; rows of program, sample and seconds."""
    programs = {"penstock": sys.executable, **dict(peer.split("=", 1) for peer in options.peers)}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    given_up: set[tuple[str, str]] = set()
    for _ in range(1 if options.hostile else options.visits):
        for sample, path in samples.items():
            for program, python in programs.items():
                family = (program, sample.split()[0])
                if family in given_up:
                    continue
                visit = visit_once(program, python, path, options)
                wrong = visit is not None and sample in gold and visit["sha256"] != gold[sample]
                if visit is None or (options.hostile and sum(visit["seconds"]) > options.seconds):
                    given_up.add(family)
                if visit is None:
                    continue
                row = rows.setdefault(
                    (program, sample),
                    {"program": f"{program} {visit['version']}", "sample": sample, "bytes": visit["bytes"]}
                    | {"wrong": False, "cold": [], "warm": [], "load": []},
                )
                row["wrong"] |= wrong
                row["cold"].append(visit["seconds"][0])
                row["warm"].append(visit["seconds"][1])
                row["load"].append(visit["load"])
    return list(rows.values())


def visit_once(program: str, python: str, path: Path, options: argparse.Namespace) -> Any:
    threads = str(options.threads)
    limits = dict.fromkeys(["RAYON_NUM_THREADS", "TOKENIZERS_NUM_THREADS", "FASTOKENS_NUM_THREADS"], threads)
    limits["TOKENIZERS_PARALLELISM"] = "false" if options.threads == 1 else "true"
    command = [python, __file__, "--tokenizer", str(options.tokenizer), "--threads", threads]
    command += ["--worker", program, "--sample", str(path)] + ["--lists"] * options.lists
    done = subprocess.run(command, env=os.environ | limits, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"{program} failed on {path.name}: {done.stderr.strip()[-300:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


# ---- The report


def report(rows: list[Any], options: argparse.Namespace) -> None:
    for row in rows:
        for kind in ("cold", "warm"):
            seconds = min(row[kind])
            row[f"{kind}_mb_per_s"] = None if row["wrong"] else row["bytes"] / seconds / 1e6
            row[f"{kind}_ns_per_byte"] = None if row["wrong"] else seconds / row["bytes"] * 1e9
        row["load_s"] = statistics.median(row["load"])
    unit = "ns_per_byte" if options.hostile else "mb_per_s"
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}", end="; ")
    visits = 1 if options.hostile else options.visits
    clock = "CPU" if options.threads == 1 else "wall"
    print(f"{options.threads} thread(s), {clock} time, best of {visits}, cold / warm {unit}")
    samples = list(dict.fromkeys(row["sample"] for row in rows))
    programs = list(dict.fromkeys(row["program"] for row in rows))
    cells = {(row["program"], row["sample"]): row for row in rows}
    lines = [["", *programs]] if options.hostile else [["", *samples, "load s"]]
    for name in samples if options.hostile else programs:
        keys = [(p, name) for p in programs] if options.hostile else [(name, s) for s in samples]
        line = [name, *(cell(cells.get(key), unit) for key in keys)]
        lines.append(line if options.hostile else [*line, load_of(name, rows)])
    for line in lines:
        print("| " + " | ".join(line) + " |")
    if options.out:
        write(rows, options.out)
    if options.plot:
        plot(samples, programs, cells, options.plot)


def cell(row: Any, unit: str) -> str:
    if row is None:
        return "-"
    if row["wrong"]:
        return "ids differ"
    return f"{row[f'cold_{unit}']:.0f} / {row[f'warm_{unit}']:.0f}"


def load_of(program: str, rows: list[Any]) -> str:
    return f"{statistics.median(r['load_s'] for r in rows if r['program'] == program):.2f}"


def write(rows: list[Any], out: Path) -> None:
    out.with_suffix(".json").write_text(json.dumps(rows, indent=1))
    columns = ["program", "sample", "bytes", "cold_mb_per_s", "warm_mb_per_s", "cold_ns_per_byte", "load_s"]
    with out.with_suffix(".csv").open("w", newline="") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)


def plot(samples: list[str], programs: list[str], cells: dict[tuple[str, str], Any], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from penstock.report.theme import PAPER, SERIES, style

    with style():
        figure = Figure(figsize=(7.6, 3.2))
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        width = 0.8 / len(programs)
        for index, (program, colour) in enumerate(zip(programs, SERIES, strict=False)):
            rows = [cells.get((program, sample)) for sample in samples]
            heights = [row["cold_mb_per_s"] or 0 if row else 0 for row in rows]
            places = np.arange(len(samples)) + index * width
            axes.bar(places, heights, width * 0.92, label=program, color=colour)
        axes.set_xticks(np.arange(len(samples)) + 0.4 - width / 2, samples)
        axes.set_ylabel("MB/s, cold, one pass")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.legend(fontsize=8)
        figure.savefig(path, dpi=130, facecolor=PAPER, bbox_inches="tight")


if __name__ == "__main__":
    main()
