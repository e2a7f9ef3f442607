"""Measures and prints; an answer outside its gate stops everything, for a wrong kernel has no speed."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from ..numeric import relative_error
from . import rows, step
from .cases import (
    Case,
    Contender,
    attention_cases,
    casts,
    causal_core,
    dense,
    dense_wgrad,
    grouped,
    grouped_gradient,
)
from .timing import Timing, time_in_turns

COLUMNS = ["case", "contender", "burst", "sustained", "unit", "burst_ratio", "sustained_ratio", "error"]
COLUMNS += ["clock_mhz", "watts"]


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark; the exit status is 2 without a GPU and 1 if a kernel missed its accuracy gate."""
    if arguments and arguments[0] == "step":
        return step.main(arguments[1:])
    options = _parser().parse_args(arguments)
    if not torch.cuda.is_available():
        print("the kernel benchmark needs a CUDA GPU, and torch sees none", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; ratios: to the first row of a case")
    figures: list[dict[str, object]] = []
    for make in _cases(options.quick):
        with torch.device("cuda"):
            made = make()
        for case in made if isinstance(made, list) else [made]:
            if options.only and options.only not in case.name:
                continue
            try:
                figures += _measure(case, options.seconds)
            except ArithmeticError as failure:
                print(failure, file=sys.stderr)
                return 1
    if options.csv:
        _write(Path(options.csv), figures)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="penstock.kernels.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few shapes")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a sustained run")
    parser.add_argument("--csv", default="", help="file for the figures")
    return parser


def _cases(quick: bool) -> list[Callable[[], Case | list[Case]]]:
    dense_shapes = [(4096, 7168), (1280, 1280)]
    expert_shapes = [(1280, 1280), (1280, 640)]
    if not quick:
        dense_shapes += [(2112, 7168), (7168, 16384), (7168, 2048), (24576, 1536), (32768, 512)]
        expert_shapes += [(640, 1280), (2816, 2048), (2048, 1408)]
    cases: list[Callable[[], Case | list[Case]]] = []
    cases += [partial(dense, 8192, n, k) for n, k in dense_shapes]
    cases += [partial(dense_wgrad, 8192, n, k) for n, k in dense_shapes]
    cases += [partial(grouped, 64, 98304, n, k) for n, k in expert_shapes]
    cases += [partial(grouped_gradient, 64, 98304, n, k) for n, k in expert_shapes]
    cases += [partial(casts, 16384, 2048 if quick else 7168)]
    cases += [partial(causal_core, 4, 4096, 10), partial(attention_cases, 4, 4096, 10)]
    columns, width = (1280, 640) if quick else (2048, 1408)
    cases += [partial(rows.norms, 16384, columns), partial(rows.swiglus, 98304, width)]
    cases += [partial(rows.moves, 16384, 64, 6, columns), partial(rows.optimizer, 1 << 28)]
    return cases


def _measure(case: Case, seconds: float) -> list[dict[str, object]]:
    print(f"\n{case.name}")
    contenders = [c for c in case.contenders if c.answer is not None or _works(c)]
    errors = [_error(case, contender) for contender in contenders]
    timings = time_in_turns([c.call for c in contenders], seconds)
    rows = []
    for contender, timing, error in zip(contenders, timings, errors, strict=True):
        row = _row(case, contender.name, timing, timings[0], error)
        rows.append(row)
        print(
            f"  {contender.name:18s} {row['burst']:8} {row['sustained']:8} {case.unit:8s}"
            f" x{row['burst_ratio']:<6} x{row['sustained_ratio']:<6}"
            f" error {row['error']:8s} {timing.clock_mhz} MHz {timing.watts} W",
            flush=True,
        )
    return rows


def _error(case: Case, contender: Contender) -> float | None:
    """Of a contender that must give an answer; raises if it misses its gate."""
    answer = contender.answer
    if answer is None:
        return None
    expected = answer.expected()
    _poison(expected)
    given = (answer.given or contender.call)()
    error = relative_error(given, expected) if isinstance(given, torch.Tensor) else float("nan")
    if not error <= answer.gate:
        raise ArithmeticError(f"{case.name}, {contender.name}: error {error:.3g} > {answer.gate}")
    return error


def _works(peer: Contender) -> bool:
    """Whether this installation can run a peer at all; says so if not."""
    try:
        peer.call()
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as failure:
        print(f"  {peer.name:18s} n/a ({str(failure).splitlines()[0][:80] if str(failure) else 'failed'})")
        return False
    return True


def _poison(like: torch.Tensor) -> None:
    """Leave NaN in the memory that an output of this size is given next."""
    for dtype in (torch.bfloat16, torch.float32):
        torch.full(like.shape, float("nan"), dtype=dtype, device=like.device)


def _row(case: Case, name: str, timing: Timing, first: Timing, error: float | None) -> dict[str, object]:
    scale = 1e-9 if case.unit == "TFLOP/s" else 1e-6  # per millisecond
    return {
        "case": case.name,
        "contender": name,
        "burst": round(case.work / timing.burst_ms * scale),
        "sustained": round(case.work / timing.sustained_ms * scale),
        "unit": case.unit,
        "burst_ratio": round(first.burst_ms / timing.burst_ms, 3),
        "sustained_ratio": round(first.sustained_ms / timing.sustained_ms, 3),
        "error": "-" if error is None else f"{error:.2e}",
        "clock_mhz": timing.clock_mhz,
        "watts": timing.watts,
    }


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
