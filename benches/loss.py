"""Loss curves of two runs side by side, and by how much the first lies above the second.

    python benches/loss.py fp8=runs/fp8/metrics.jsonl bf16=runs/bf16/metrics.jsonl --png loss.png

The runs must have seen the same batches: lines are matched by step. Smoothed means an exponential mean over
20 steps, without a bias at the start.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from penstock.report.plots import smoothed
from penstock.report.theme import ACCENT, FAINT, PAPER, style
from penstock.train.metrics import read_metrics

SPAN_STEPS = 20
KEYS = {"loss": "next token", "mtp_loss": "multi-token prediction"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs=2, metavar="NAME=METRICS")
    parser.add_argument("--png", type=Path, help="file for the picture")
    options = parser.parse_args()
    names, runs = zip(*(read(run) for run in options.runs), strict=True)
    first, second = ({line["step"]: line for line in run} for run in runs)
    steps = sorted(first.keys() & second.keys())
    if not steps:
        sys.exit("the runs have no step in common")
    pairs = ([first[step] for step in steps], [second[step] for step in steps])
    curves = {
        key: tuple(smoothed([line[key] for line in run], SPAN_STEPS) for run in pairs)
        for key in KEYS
        if all(line.get(key) is not None for run in pairs for line in run)
    }
    print_table(names, steps, curves, pairs)
    if options.png:
        draw(names, steps, curves).savefig(options.png, dpi=130, facecolor=PAPER, bbox_inches="tight")


def read(argument: str) -> tuple[str, list[dict[str, Any]]]:
    name, equals, path = argument.partition("=")
    if not equals:
        sys.exit(f"{argument}: expected NAME=METRICS, as in fp8=run/metrics.jsonl")
    return name, read_metrics(Path(path))


def excess(curve: tuple[list[float], list[float]]) -> list[float]:
    """Per cent by which the first of two curves lies above the second."""
    return [100 * (a / b - 1) for a, b in zip(*curve, strict=True)]


def print_table(names: Any, steps: list[int], curves: dict[str, Any], pairs: Any) -> None:
    table = Table("step", *(f"{KEYS[key]}: {name}" for key in curves for name in (*names, "difference")))
    marks = sorted({min(len(steps) - 1, max(0, len(steps) * part // 8 - 1)) for part in range(1, 9)})
    for at in marks:
        cells = []
        for curve in curves.values():
            cells += [f"{curve[0][at]:.4f}", f"{curve[1][at]:.4f}", f"{excess(curve)[at]:+.2f} %"]
        table.add_row(str(steps[at] + 1), *cells)
    Console(width=140).print(table)
    for name, run in zip(names, pairs, strict=True):
        settled = run[10:] or run
        speed = statistics.median(line["tokens_per_s"] for line in settled)
        stall = sum(line["data_stall_s"] for line in settled) / sum(line["step_s"] for line in settled)
        print(f"{name}: {speed:,.0f} tokens/s (median from step 11), data stall {stall:.3%} of the time")


def draw(names: Any, steps: list[int], curves: dict[str, Any]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(7.6, 4.6))
        FigureCanvasAgg(figure)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.4])
        for key, line in zip(curves, ("-", ":"), strict=False):
            for curve, name, colour in zip(curves[key], names, (ACCENT, FAINT), strict=True):
                upper.plot(steps, curve, line, color=colour, linewidth=1.6, label=f"{name}, {KEYS[key]}")
            lower.plot(steps, excess(curves[key]), line, color=ACCENT, linewidth=1.4)
        upper.set_ylabel("loss, nats a token")
        upper.legend(fontsize=8.5)
        lower.axhline(0, color=FAINT, linewidth=0.8)
        lower.set_ylabel(f"{names[0]} above {names[1]}, %")
        lower.set_xlabel("optimizer step")
        for axes in (upper, lower):
            axes.grid(axis="y")
    return figure


if __name__ == "__main__":
    main()
