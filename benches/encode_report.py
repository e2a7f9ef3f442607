"""The tables, files and pictures of bench encode."""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
from pathlib import Path
from typing import Any

import numpy as np


def report(rows: list[Any], options: argparse.Namespace) -> None:
    measure(rows, options)
    unit = "ns_per_byte" if options.hostile else "mb_per_s"
    print(heading(unit, options))
    samples = list(dict.fromkeys(row["sample"] for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows))
    cells = {(row["name"], row["sample"]): row for row in rows}
    lines = [["", *names]] if options.hostile else [["", *samples, "load s"]]
    for side in samples if options.hostile else names:
        keys = [(name, side) for name in names] if options.hostile else [(side, s) for s in samples]
        line = [side, *(cell(cells.get(key), unit) for key in keys)]
        lines.append(line if options.hostile else [*line, load_of(side, rows)])
    for line in lines:
        print("| " + " | ".join(line) + " |")
    if options.out:
        write(rows, options.out)
    if options.plot:
        plot(samples, names, cells, options.plot)


def measure(rows: list[Any], options: argparse.Namespace) -> None:
    """Give each row its speeds, how many times that of the first number of threads they are, and a name."""
    firsts: dict[tuple[str, str], Any] = {}
    for row in rows:
        first = firsts.setdefault((row["program"], row["sample"]), row)
        row["name"] = row["program"]
        if len(options.threads) > 1:
            row["name"] += f", {row['threads']} thread(s)"
        for kind in ("cold", "warm"):
            seconds = min(row[kind])
            row[f"{kind}_mb_per_s"] = None if row["wrong"] else row["bytes"] / seconds / 1e6
            row[f"{kind}_ns_per_byte"] = None if row["wrong"] else seconds / row["bytes"] * 1e9
            row[f"{kind}_ratio"] = None if first is row else min(first[kind]) / seconds
        row["load_s"] = statistics.median(row["load"])


def heading(unit: str, options: argparse.Namespace) -> str:
    clock = "CPU" if options.threads == [1] else "wall"
    kinds = f"cold / warm {unit}"
    if len(options.threads) > 1:
        kinds += f" (ratios to {options.threads[0]} thread(s))"
    machine = f"{platform.processor() or platform.machine()}, Python {platform.python_version()}"
    counts = ", ".join(map(str, options.threads))
    visits = 1 if options.hostile else options.visits
    return f"{machine}; {counts} thread(s), {clock} time, best of {visits}, {kinds}"


def cell(row: Any, unit: str) -> str:
    if row is None:
        return "-"
    if row["wrong"]:
        return "ids differ"
    speeds = f"{row[f'cold_{unit}']:.0f} / {row[f'warm_{unit}']:.0f}"
    ratios = row["cold_ratio"] and f" ({row['cold_ratio']:.2f} / {row['warm_ratio']:.2f})"
    return speeds + (ratios or "")


def load_of(name: str, rows: list[Any]) -> str:
    return f"{statistics.median(row['load_s'] for row in rows if row['name'] == name):.2f}"


def write(rows: list[Any], out: Path) -> None:
    out.with_suffix(".json").write_text(json.dumps(rows, indent=1))
    columns = ["program", "threads", "sample", "bytes", "cold_mb_per_s", "warm_mb_per_s"]
    columns += ["cold_ratio", "warm_ratio", "cold_ns_per_byte", "load_s"]
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
