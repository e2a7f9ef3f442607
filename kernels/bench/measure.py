"""One case: peers that cannot run are named, ours must be right, then all take turns."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch
from torch import Tensor

from ..numeric import relative_error
from .case import Case, Contender
from .catalog import Entry
from .timing import Timing, can_be_recorded, time_in_turns

DEVICE = "cuda"
COLUMNS = ["family", "case", "contender", "burst", "sustained", "unit", "burst_ratio", "sustained_ratio"]
COLUMNS += ["error", "memory_gib", "clock_mhz", "watts", "burst_ms", "sustained_ms", "intensity"]
COLUMNS += ["must", "moonshot", "verdict"]


def measure(entry: Entry, seconds: float, quick: bool) -> list[dict[str, object]]:
    """Build, check and time one case; prints a row a contender.

    Raises
    ------
    ArithmeticError
        One of our kernels gave an answer outside its gate.
    """
    print(f"\n{entry.name}")
    _free()
    with torch.device(DEVICE):
        case = entry.build()
    running, errors = [], []
    for contender in case.contenders:
        if quick and contender.compiled:
            continue
        if contender.ours:
            error = error_of(entry.name, contender)
        else:
            failure, error = try_peer(contender)
            if failure is not None:
                print(f"  {contender.name:24s} n/a ({failure})", flush=True)
                continue
        running.append(contender)
        errors.append(error)
    memory = [_memory_gib(contender) for contender in running]
    timings = time_in_turns([c.call for c in running], seconds)
    base = next((t for c, t in zip(running, timings, strict=True) if not c.ours), None)
    rows = []
    for contender, timing, error, gib in zip(running, timings, errors, memory, strict=True):
        rows.append(row(entry, case, contender.name, timing, base, error, gib))
        _print(rows[-1])
    return rows


def error_of(name: str, contender: Contender) -> float | None:
    """Of a contender that must give an answer; raises if it misses its gate."""
    answer = contender.answer
    if answer is None:
        return None
    expected = answer.expected()
    _poison(expected)
    given = (answer.given or contender.call)()
    error = relative_error(given, expected) if isinstance(given, Tensor) else float("nan")
    if not error <= answer.gate:
        raise ArithmeticError(f"{name}, {contender.name}: error {error:.3g} > {answer.gate}")
    return error


def try_peer(peer: Contender) -> tuple[str | None, float | None]:
    """Why this installation cannot run a peer, or None; and its error if it runs."""
    try:
        peer.call()
        error = error_of("", peer)
        if torch.cuda.is_available():
            can_be_recorded(peer.call)
    # A library may fail with anything, and then its row is missing, no more.
    except Exception as failure:
        lines = str(failure).strip().splitlines()
        return (lines[0][:100] if lines else type(failure).__name__), None
    return None, error


def row(
    entry: Entry,
    case: Case,
    name: str,
    timing: Timing,
    base: Timing | None,
    error: float | None,
    memory_gib: float,
) -> dict[str, object]:
    """Figures of one contender; ratios are to ``base``."""
    scale = 1e-9 if case.unit == "TFLOP/s" else 1e-6  # per millisecond
    return {
        "family": entry.family,
        "case": entry.name,
        "contender": name,
        "burst": round(case.work / timing.burst_ms * scale),
        "sustained": round(case.work / timing.sustained_ms * scale),
        "unit": case.unit,
        "burst_ratio": "-" if base is None else round(base.burst_ms / timing.burst_ms, 3),
        "sustained_ratio": "-" if base is None else round(base.sustained_ms / timing.sustained_ms, 3),
        "error": "-" if error is None else f"{error:.2e}",
        "memory_gib": round(memory_gib, 3),
        "clock_mhz": timing.clock_mhz,
        "watts": timing.watts,
        "burst_ms": round(timing.burst_ms, 5),
        "sustained_ms": round(timing.sustained_ms, 5),
        "intensity": round(case.flops / case.moved, 3),
    }


def _print(figures: dict[str, object]) -> None:
    f = {key: str(value) for key, value in figures.items()}
    print(
        f"  {f['contender']:24s} {f['burst']:>6s} {f['sustained']:>6s} {f['unit']:8s}"
        f" x{f['burst_ratio']:6s} x{f['sustained_ratio']:6s} error {f['error']:8s}"
        f" {f['burst_ms']:>9s} ms {f['memory_gib']:>6s} GiB {f['clock_mhz']} MHz {f['watts']} W",
        flush=True,
    )


def _memory_gib(contender: Contender) -> float:
    """What a call allocates beyond what it returns, at its peak."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    returned = contender.call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    return max(0, peak - _bytes(returned)) / 2**30


def _bytes(returned: object) -> int:
    if isinstance(returned, Tensor):
        return returned.nbytes
    if isinstance(returned, Sequence) and not isinstance(returned, str):
        return sum(_bytes(part) for part in returned)
    # The types in which kernels return bytes and scales are dataclasses of tensors.
    return sum(_bytes(part) for part in getattr(returned, "__dict__", {}).values())


def _poison(like: Tensor) -> None:
    """Leave NaN in the memory that an output of this size is given next."""
    for dtype in (torch.bfloat16, torch.float32):
        torch.full(like.shape, float("nan"), dtype=dtype, device=like.device)


def _free() -> None:
    """Room for the next case; and compilers start anew, or they give up after eight shapes."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.compiler.reset()
