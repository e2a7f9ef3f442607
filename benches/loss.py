"""Loss curves of several runs, and by how much each lies above the last of them.

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
from penstock.report.theme import FAINT, PAPER, SERIES, style
from penstock.train.metrics import read_metrics

SPAN_STEPS = 20
ROWS = 8

Runs = dict[str, list[dict[str, Any]]]
"""Lines of metrics.jsonl by the run's name; the last run is the one that the others are measured by."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=METRICS")
    parser.add_argument("--png", type=Path, help="file for the picture")
    options = parser.parse_args()
    show(dict(read(run) for run in options.runs), options.png)


def show(runs: Runs, png: Path | None) -> None:
    """Print the table of the steps that all runs have, and draw their curves."""
    common = set.intersection(*({line["step"] for line in run} for run in runs.values()))
    if len(runs) < 2 or not common:
        sys.exit("expected two runs or more that have steps in common")
    runs = {name: [line for line in run if line["step"] in common] for name, run in runs.items()}
    curves = {name: smoothed([line["loss"] for line in run], SPAN_STEPS) for name, run in runs.items()}
    steps = sorted(common)
    print_table(steps, curves)
    print_speeds(runs)
    if png:
        draw(steps, curves).savefig(png, dpi=130, facecolor=PAPER, bbox_inches="tight")


def read(argument: str) -> tuple[str, list[dict[str, Any]]]:
    name, equals, path = argument.partition("=")
    if not equals:
        sys.exit(f"{argument}: expected NAME=METRICS, as in fp8=run/metrics.jsonl")
    return name, read_metrics(Path(path))


def excess(curve: list[float], yardstick: list[float]) -> list[float]:
    """Per cent by which a curve lies above another."""
    return [100 * (a / b - 1) for a, b in zip(curve, yardstick, strict=True)]


def print_table(steps: list[int], curves: dict[str, list[float]]) -> None:
    *others, last = curves
    table = Table("step", f"{last}: loss", *(f"{name}: difference" for name in others))
    differences = {name: excess(curves[name], curves[last]) for name in others}
    for at in sorted({max(0, len(steps) * part // ROWS - 1) for part in range(1, ROWS + 1)}):
        cells = (f"{differences[name][at]:+.3f} %" for name in others)
        table.add_row(str(steps[at] + 1), f"{curves[last][at]:.4f}", *cells)
    half = len(steps) // 2
    means = (f"{statistics.fmean(differences[name][half:]):+.3f} %" for name in others)
    table.add_row("mean of the second half", f"{statistics.fmean(curves[last][half:]):.4f}", *means)
    Console(width=140).print(table)


def print_speeds(runs: Runs) -> None:
    for name, run in runs.items():
        settled = run[10:] or run
        speed = statistics.median(line["tokens_per_s"] for line in settled)
        stall = sum(line["data_stall_s"] for line in settled) / sum(line["step_s"] for line in settled)
        print(
            f"{name}: {speed:,.0f} tokens/s (median from the 11th step), data stall {stall:.3%} of the time"
        )


def draw(steps: list[int], curves: dict[str, list[float]]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    *others, last = curves
    colours = dict(zip((*others, last), (*SERIES[: len(others)], FAINT), strict=True))
    with style():
        figure = Figure(figsize=(7.6, 4.6))
        FigureCanvasAgg(figure)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1.6])
        for name, curve in curves.items():
            upper.plot(steps, curve, color=colours[name], linewidth=1.6, label=name)
        for name in others:
            lower.plot(steps, excess(curves[name], curves[last]), color=colours[name], linewidth=1.4)
        upper.set_ylabel("loss, nats a token")
        upper.legend(fontsize=8.5)
        lower.axhline(0, color=FAINT, linewidth=0.8)
        lower.set_ylabel(f"above {last}, %")
        lower.set_xlabel("optimizer step")
        for axes in (upper, lower):
            axes.grid(axis="y")
    return figure


if __name__ == "__main__":
    main()
