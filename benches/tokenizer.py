"""The tokenizer's main figures in one call: encoding, decoding and training, one after another.

    python3 dev.py bench tokenizer --tokenizer tokenizer.json --corpus train-*.jsonl.zst

Each has a benchmark of its own with more options, and docs/numbers.md says which of them gave which table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json")
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help=".jsonl or .jsonl.zst files")
    parser.add_argument("--megabytes", type=float, help="of text, instead of what each takes by itself")
    parser.add_argument("--peers", nargs="*", default=[], metavar="NAME=PYTHON", help="for encode and decode")
    options = parser.parse_args()
    common = ["--corpus", *options.corpus]
    if options.megabytes is not None:
        common += ["--megabytes", str(options.megabytes)]
    for name in ("encode", "decode"):
        run(name, "--tokenizer", options.tokenizer, *common, "--peers", *options.peers)
    run("training", *common, "--only", "penstock", "tokenizers")


def run(name: str, *arguments: object) -> None:
    """One benchmark, which prints its own table."""
    print(f"\n{name}", flush=True)
    subprocess.run([sys.executable, str(HERE / f"{name}.py"), *map(str, arguments)], check=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as failure:
        sys.exit(failure.returncode)
