"""Instructions and cache misses that a byte of text costs an encoder, counted by valgrind.

    python3 dev.py bench instructions --tokenizer tokenizer.json --corpus train-000.jsonl.zst \
        --peers fastokens=peers/bin/python gigatoken=peers/bin/python

Needs valgrind. A program encodes nothing, the texts once, and the texts twice, each in a process of its own
under callgrind: the differences are the cold and the warm pass. Counts hardly depend on what else the machine
does, so they compare builds where times do not. Valgrind has AVX2 and no AVX-512, and simulates a first-level
cache of the machine's size and, as its last level, one of `--last-level` KiB, 16-way.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from encode import SOURCES, corpus_samples, load

COUNTS = {"instructions": r"I\s+refs", "D1 misses": r"D1\s+misses", "last-level misses": r"LLd?\s+misses"}


def main() -> None:
    options = parse()
    if options.worker:
        return work(options)
    options.work.mkdir(parents=True, exist_ok=True)
    programs = {"penstock": sys.executable} | dict(peer.split("=", 1) for peer in options.peers)
    print("| text | program | pass | " + " | ".join(f"{name} a byte" for name in COUNTS) + " |")
    for text, path in corpus_samples(options).items():
        size = sum(len(t.encode()) for t in json.loads(path.read_bytes()))
        for name, python in programs.items():
            counts = [count(name, python, path, passes, options) for passes in range(3)]
            for which, before, after in zip(("cold", "warm"), counts, counts[1:], strict=False):
                cells = " | ".join(f"{(after[key] - before[key]) / size:.3f}" for key in COUNTS)
                print(f"| {text} | {name} | {which} | {cells} |", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json")
    parser.add_argument("--corpus", type=Path, nargs="*", default=[], help=".jsonl or .jsonl.zst files")
    parser.add_argument("--megabytes", type=float, default=4)
    parser.add_argument("--samples", nargs="*", default=list(SOURCES), choices=list(SOURCES))
    parser.add_argument("--single", action="store_true", help="one 12 MB string")
    parser.add_argument("--peers", nargs="*", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--last-level", type=int, default=4096, metavar="KIB")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "penstock-bench-encode")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--sample", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--passes", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def count(name: str, python: str, sample: Path, passes: int, options: argparse.Namespace) -> dict[str, int]:
    """What a process counts that encodes ``sample`` so many times."""
    last_level = f"--LL={options.last_level * 1024},16,64"
    valgrind = [
        "valgrind",
        "--tool=callgrind",
        "--cache-sim=yes",
        last_level,
        "--callgrind-out-file=/dev/null",
    ]
    program = [python, __file__, "--worker", name, "--sample", str(sample), "--passes", str(passes)]
    environment = os.environ | {"PYTHONHASHSEED": "0", "RAYON_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [*valgrind, *program, "--tokenizer", str(options.tokenizer)],
            capture_output=True, text=True, env=environment, check=True,
        )  # fmt: skip
    except FileNotFoundError:
        sys.exit("valgrind is not installed; on Debian: apt-get install valgrind")
    except subprocess.CalledProcessError as failure:
        sys.exit(f"{name} failed under valgrind:\n{failure.stderr[-2000:]}")
    return {key: number(pattern, done.stderr) for key, pattern in COUNTS.items()}


def number(pattern: str, report: str) -> int:
    found = re.search(rf"{pattern}:\s+([\d,]+)", report)
    if found is None:
        sys.exit(f"valgrind's report has no line {pattern!r}:\n{report[-2000:]}")
    return int(found[1].replace(",", ""))


def work(options: argparse.Namespace) -> None:
    """Load, and encode as often as asked."""
    texts = json.loads(options.sample.read_bytes())
    _, encode, _ = load(options.worker, options.tokenizer, 1, False)
    encode(["first call"])
    for _ in range(options.passes):
        encode(texts)


if __name__ == "__main__":
    main()
