"""Our kernels beside their peers; an answer of ours outside its gate stops everything, for a wrong kernel has
no speed.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from . import catalog, goals, roofline, step
from .measure import COLUMNS, measure


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; the exit status is 2 without a GPU and 1 if a kernel missed its accuracy gate."""
    if arguments and arguments[0] == "step":
        return step.main(arguments[1:])
    parser = _parser()
    options = parser.parse_args(arguments)
    if not any(catalog.entries(options.quick, options.only)):
        parser.error(f"--only: no case is called {options.only!r}; --list shows them")
    if not options.seconds > 0:
        parser.error(f"--seconds: expected more than 0, got {options.seconds}")
    for name, path in (("--csv", options.csv), ("--png", options.png)):
        if path and not Path(path).absolute().parent.is_dir():
            parser.error(f"{name}: there is no folder {Path(path).absolute().parent}")
    if options.list:
        print(catalog.listing(options.quick, options.only))
        return 0
    if options.drawn:
        return _draw(_read(options.drawn), options.png)
    if not torch.cuda.is_available():
        print("the kernel benchmark needs a CUDA GPU, and torch sees none", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; ratios: to the first peer that runs")
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    figures: list[goals.Row] = []
    try:
        for entry in catalog.entries(options.quick, options.only):
            figures += measure(entry, options.seconds, options.quick)
    except ArithmeticError as failure:
        print(failure, file=sys.stderr)
        return 1
    finally:
        # Whatever stopped the run, what was measured before is printed and written.
        lines = goals.verdicts(figures)
        if lines:
            print(f"\n{goals.text(lines)}")
        if options.csv:
            _write(Path(options.csv), [*figures, *lines])
    return _draw(figures, options.png) if options.png else 0


def _draw(figures: list[goals.Row], path: Path | None) -> int:
    if path is None:
        print("--from: expected --png FILE beside it, for the plot", file=sys.stderr)
        return 2
    try:
        roofline.draw(figures, path)
    except (ValueError, ModuleNotFoundError) as failure:
        print(failure, file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="penstock.kernels.bench", description=__doc__)
    parser.add_argument("--list", action="store_true", help="families and cases, with what each compares")
    parser.add_argument("--quick", action="store_true", help="few shapes")
    parser.add_argument("--only", default="", metavar="NAME", help="cases whose name holds this")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a sustained run")
    parser.add_argument("--csv", default="", help="file for the figures")
    parser.add_argument("--png", type=Path, metavar="FILE", help="file for a roofline plot of the figures")
    parser.add_argument(
        "--from",
        dest="drawn",
        type=Path,
        metavar="CSV",
        help="measure nothing: draw the figures of an earlier run",
    )
    return parser


def _read(path: Path) -> list[goals.Row]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [dict(row) for row in csv.DictReader(file)]
    except OSError as failure:
        raise SystemExit(f"--from: {failure}") from None


def _write(path: Path, rows: list[goals.Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
