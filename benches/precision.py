"""What FP8 costs in loss: runs that part at one checkpoint, beside what chance alone does.

    penstock tokenizer train corpus.jsonl.zst -o tok --vocab-size 16000
    penstock pack corpus.jsonl.zst --tokenizer tok -o packed --seq-len 4096
    python benches/precision.py --data packed --tokenizer tok --out /tmp/precision --png precision.png

A run in bf16 gets past the steep start, where a lag of one step is already 0.3 % and the smallest difference
grows: two runs from the same seed part by per cents there. From its checkpoint each arm goes on with the same
batches: FP8 in both recipes, bf16 once more, and bf16 with its output layer in smaller chunks. That last arm
differs by the order of some sums alone, so it shows how far apart two equally good runs come.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from loss import show

from penstock.train.metrics import read_metrics

RECIPE = Path(__file__).with_name("precision.toml")


class Arm(NamedTuple):
    precision: str
    fp8_recipe: str = "v3"
    head_chunk_tokens: int = 4096


ARMS = {
    "FP8 v3": Arm("fp8"),
    "FP8 shift": Arm("fp8", "shift"),
    "bf16, other order of sums": Arm("bf16", head_chunk_tokens=1024),
    "bf16": Arm("bf16"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a packed dataset")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the one that it was packed with")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the runs")
    parser.add_argument("--recipe", default=str(RECIPE))
    parser.add_argument("--shared-steps", type=int, default=600, help="before the arms part")
    parser.add_argument("--steps", type=int, default=250, help="of each arm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=1, help="arms that run side by side on one GPU")
    parser.add_argument("--png", type=Path, help="file for the picture")
    options = parser.parse_args()

    trunk = options.out / "trunk"
    train(options, trunk, ARMS["bf16"], options.shared_steps)

    def go_on(name: str) -> Path:
        folder = options.out / name.replace(" ", "-").replace(",", "")
        shutil.copytree(trunk / "checkpoints", folder / "checkpoints", copy_function=os.link)
        train(options, folder, ARMS[name], options.shared_steps + options.steps)
        return folder / "metrics.jsonl"

    with ThreadPoolExecutor(options.at_once) as pool:
        metrics = dict(zip(ARMS, pool.map(go_on, ARMS), strict=True))
    show({name: read_metrics(path) for name, path in metrics.items()}, options.png)


def train(options: argparse.Namespace, out: Path, arm: Arm, steps: int) -> None:
    """Train up to a step, from the checkpoint in the folder if there is one, at a constant learning rate."""
    values = {
        "data.path": options.data,
        "tokenizer.path": options.tokenizer,
        "optimizer.decay_steps": 0,
        "train.steps": steps,
        "train.seed": options.seed,
        "train.precision": arm.precision,
        "train.head_chunk_tokens": arm.head_chunk_tokens,
    }
    settings = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "penstock", "train", options.recipe, "--out", str(out), *settings]
    environment = os.environ | {"PENSTOCK_FP8_RECIPE": arm.fp8_recipe}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{out}: training failed\n{done.stderr}")


if __name__ == "__main__":
    main()
