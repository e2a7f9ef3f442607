"""What each family must reach beside its peer, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import peers
from .attention import ALONE, WHOLE_ROWS
from .vocabulary import SMALL_CHUNKS

Row = dict[str, object]


@dataclass(frozen=True)
class Goal:
    """A ratio to a peer, a geometric mean over the cases of some families."""

    what: str
    families: tuple[str, ...]
    ours: str
    peer: str
    must: float
    moonshot: float | None = None
    memory_gib: float | None = None
    """Bound on what our contender allocates beyond what it returns."""


_PRODUCTS = ("gemm", "dgrad")
_GROUPED = ("grouped", "grouped_dgrad")
GOALS = [
    Goal("dense fprop, dgrad", _PRODUCTS, "gluon", peers.BLOCK, 1.0, 1.10),
    Goal("plain fallback", _PRODUCTS, "triton", peers.BLOCK, 0.75, 0.90),
    Goal("dense wgrad, v3", ("wgrad",), "gluon v3", peers.BLOCK, 1.0, 1.10),
    Goal("grouped fprop, dgrad", _GROUPED, "gluon", peers.GROUPED_BF16, 1.7),
    Goal("the same, beside row-wise fp8", _GROUPED, "gluon", peers.GROUPED_ROWS, 1.0),
    Goal("grouped wgrad, shift", ("grouped_wgrad",), "gluon shift", peers.GROUPED_BF16, 1.45, 1.7),
    Goal("grouped wgrad, shift +=", ("grouped_wgrad",), "gluon shift +=", peers.GROUPED_BF16, 1.1, 1.4),
    Goal("quantise rows", ("quantize_rows",), "triton", "copy", 0.97, 0.97),
    Goal("quantise tokens", ("quantize_tokens",), "triton", "copy", 0.92, 0.97),
    Goal("quantise both ways", ("quantize_both",), "gluon", "copy", 0.85),
    Goal("transpose", ("transpose_shift",), "gluon", "copy", 0.85, 0.92),
    Goal("transpose, gathered", ("transpose_gathered",), "gluon", "copy", 0.95, 1.05),
    Goal("SwiGLU backward, quantised", ("swiglu_backward_quantize",), "gluon", "copy", 0.75, 0.88),
    Goal("SwiGLU, quantised", ("swiglu_quantize",), "triton", "copy", 0.95, 0.97),
    Goal("RMSNorm", ("rms_norm",), "gluon", "copy", 0.95, 0.98),
    Goal("RMSNorm, quantised", ("rms_norm_quantize",), "gluon", "copy", 0.95, 0.98),
    Goal("sum and RMSNorm, quantised", ("sum_rms_norm_quantize",), "gluon", "copy", 0.95, 0.98),
    Goal("attention, with cuDNN's copies", ("attention",), "gluon", WHOLE_ROWS, 1.0),
    Goal("attention, cuDNN without them", ("attention",), "gluon", ALONE, 0.90, 0.95),
    Goal("attention, documents", ("attention_documents",), "gluon", ALONE, 1 / 1.1),
    Goal("linear and cross-entropy", ("loss",), SMALL_CHUNKS, "torch.compile", 1 / 1.05, 1 / 0.95, 1.0),
]


def verdicts(rows: Sequence[Row]) -> list[Row]:
    """A line for each goal whose cases ran, as rows of the table of figures."""
    found = []
    for goal in GOALS:
        measured = [row for row in rows if row["family"] in goal.families]
        if measured:
            found.append(_verdict(goal, measured))
    return found


def text(lines: Sequence[Row]) -> str:
    """The table of goals."""
    head = f"{'goal':32s} {'beside':22s} {'burst':>7s} {'sustained':>9s} {'must':>6s} {'moonshot':>8s}"
    out = [head]
    for row in lines:
        out.append(
            f"{row['case']!s:32s} {row['contender']!s:22s} {row['burst_ratio']!s:>7s}"
            f" {row['sustained_ratio']!s:>9s} {row['must']!s:>6s} {row['moonshot']!s:>8s}  {row['verdict']}"
        )
    return "\n".join(out)


def _verdict(goal: Goal, rows: Iterable[Row]) -> Row:
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(str(row["case"]), {})[str(row["contender"])] = row
    pairs = [(c[goal.peer], c[goal.ours]) for c in cases.values() if goal.peer in c and goal.ours in c]
    burst, sustained = (_mean_ratio(pairs, key) for key in ("burst_ms", "sustained_ms"))
    verdict = "n/a"
    if burst is not None and sustained is not None:
        verdict = "met" if min(burst, sustained) >= goal.must else "missed"
        largest = max(float(str(own["memory_gib"])) for _, own in pairs)
        if goal.memory_gib is not None and largest > goal.memory_gib:
            verdict = f"missed ({largest:.2f} GiB, must {goal.memory_gib:.0f})"
    if 0 < len(pairs) < len(cases):
        verdict += f" ({len(pairs)} of {len(cases)} cases: in others a peer is missing)"
    return {
        "family": "goal",
        "case": goal.what,
        "contender": goal.peer,
        "burst_ratio": "n/a" if burst is None else round(burst, 3),
        "sustained_ratio": "n/a" if sustained is None else round(sustained, 3),
        "must": round(goal.must, 2),
        "moonshot": "-" if goal.moonshot is None else round(goal.moonshot, 2),
        "verdict": verdict,
    }


def _mean_ratio(pairs: Sequence[tuple[Row, Row]], key: str) -> float | None:
    """Geometric mean of how much faster the second of each pair is."""
    if not pairs:
        return None
    logs = [math.log(float(str(peer[key])) / float(str(own[key]))) for peer, own in pairs]
    return math.exp(sum(logs) / len(logs))
