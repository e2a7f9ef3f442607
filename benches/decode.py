"""Decoding beside the fast tokenizers of today: the ids of one long text, as a list and as an array.

    python3 dev.py bench decode --tokenizer tokenizer.json --corpus train-*.jsonl.zst --megabytes 12 \
        --peers fastokens=peers/bin/python gigatoken=peers/bin/python kitoken=peers/bin/python

Texts, peers and their environments are those of bench encode. What comes out must be the text, or the program
gets no time. Each program runs in fresh processes, in turn; one thread, least CPU time of all passes.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from encode import SOURCES, corpus_samples, version_of

PASSES = 5

Decode = Callable[[Any], bytes | str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json")
    parser.add_argument("--corpus", type=Path, nargs="*", default=[], help=".jsonl or .jsonl.zst files")
    parser.add_argument("--megabytes", type=float, default=12)
    parser.add_argument("--samples", nargs="*", default=list(SOURCES), choices=list(SOURCES))
    parser.add_argument("--peers", nargs="*", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--visits", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "penstock-bench-encode")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker[0], options.tokenizer, Path(options.worker[1]))
    options.work.mkdir(parents=True, exist_ok=True)
    options.single = False
    samples = corpus_samples(options)
    for path in samples.values():
        encode(path, options.tokenizer)
    report(visit_all(samples, options), list(samples))


def encode(sample: Path, tokenizer: Path) -> None:
    """Put the ids of a sample, as one text, beside it."""
    import penstock

    text = "\n".join(json.loads(sample.read_bytes()))
    np.save(sample.with_suffix(".npy"), penstock.Tokenizer.from_file(tokenizer).encode_to_numpy(text))


def visit_all(samples: dict[str, Path], options: argparse.Namespace) -> dict[str, dict[str, float | None]]:
    """MB/s by program and route, and by sample; None where the text is another."""
    programs = {"penstock": sys.executable, **dict(peer.split("=", 1) for peer in options.peers)}
    rows: dict[str, dict[str, float | None]] = {}
    for _ in range(options.visits):
        for sample, path in samples.items():
            for program, python in programs.items():
                command = [python, __file__, "--tokenizer", options.tokenizer, "--worker", program, path]
                done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    print(f"{program} failed on {path.name}: {done.stderr.strip()[-300:]}", file=sys.stderr)
                    continue
                for route, speed in json.loads(done.stdout.splitlines()[-1]).items():
                    row = rows.setdefault(route, {})
                    before = row.get(sample, 0.0)
                    row[sample] = None if speed is None or before is None else max(speed, before)
    return rows


def work(name: str, tokenizer: Path, sample: Path) -> None:
    """One visit: load, decode by every route, print a line of JSON."""
    version, routes = load(name, tokenizer)
    array = np.load(sample.with_suffix(".npy"))
    ids = {"list": array.tolist(), "array": array}
    expected = "\n".join(json.loads(sample.read_bytes())).encode()
    speeds: dict[str, float | None] = {}
    for route, decode in routes.items():
        given = ids[route.split()[0]]
        seconds = []
        for _ in range(PASSES):
            began = time.process_time()
            result = decode(given)
            seconds.append(time.process_time() - began)
            is_right = (result.encode() if isinstance(result, str) else result) == expected
            del result
        speeds[f"{name} {version}, {route}"] = len(expected) / min(seconds) / 1e6 if is_right else None
    print(json.dumps(speeds))


def load(name: str, path: Path) -> tuple[str, dict[str, Decode]]:
    """The program's version and its routes."""
    if name == "penstock":
        import penstock

        ours = penstock.Tokenizer.from_file(path)
        routes = {"list to bytes": ours.decode_bytes, "list to str": ours.decode}
        return penstock.__version__, routes | {"array to bytes": ours.decode_bytes}
    version = version_of("tokenizers" if name.startswith("tokenizers") else name)
    if name == "fastokens":
        import fastokens

        return version, {"list to str": fastokens.Tokenizer.from_file(str(path)).decode}
    if name == "gigatoken":
        import gigatoken

        peer = gigatoken.Tokenizer.from_json(path.read_text(encoding="utf-8"))
        return version, {"list to bytes": peer.decode, "array to bytes": peer.decode}
    if name == "kitoken":
        import kitoken

        return version, {"list to bytes": kitoken.Kitoken.from_tokenizers_file(str(path)).decode}
    if name.startswith("tokenizers"):
        import tokenizers

        hf = tokenizers.Tokenizer.from_file(str(path))
        return version, {"list to str": lambda ids: hf.decode(ids, skip_special_tokens=False)}
    sys.exit(f"no adapter for {name}")


def report(rows: dict[str, dict[str, float | None]], samples: list[str]) -> None:
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}; MB/s")
    print("| " + " | ".join(["", *samples]) + " |")
    for route, speeds in rows.items():
        cells = [speeds.get(sample, 0.0) for sample in samples]
        print("| " + " | ".join([route, *("differs" if c is None else f"{c:.0f}" for c in cells)]) + " |")


if __name__ == "__main__":
    main()
