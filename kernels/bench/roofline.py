"""Roofline plot: what each kernel reaches, under the limits of memory and tensor cores that peers show.

S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]

_KINDS = {
    "dense products": ("gemm", "dgrad", "wgrad", "wgrads"),
    "products of experts": ("grouped", "grouped_dgrad", "grouped_wgrad", "grouped_wgrad_short"),
    "attention": ("attention", "attention_documents"),
    "output layer and loss": ("loss",),
    "casts and transposes": (
        "quantize_rows", "quantize_tokens", "quantize_both", "quantize_weight", "transpose_shift",
        "transpose_gathered",
    ),
    "norms, SwiGLU, rotation": (
        "rms_norm", "rms_norm_quantize", "sum_rms_norm_quantize", "add_rms_norm", "add_rms_norm_quantize",
        "combine_rms_norm",
        "swiglu", "swiglu_quantize", "swiglu_backward_quantize", "rotate_heads",
    ),
    "routing, moves, optimizer": (
        "router_logits", "route", "route_tables", "permute_rows", "permute", "combine", "embedding", "adamw",
        "adamw_quantize", "gradient_norm",
    ),
}  # fmt: skip
_COLORS = ("#0f766e", "#c2410c", "#1d4ed8", "#7c3aed", "#db2777", "#4d7c0f", "#64748b")
_FALLBACK = "triton"
_INK, _FAINT = "#334155", "#94a3b8"


class Point(NamedTuple):
    """One contender of one case."""

    kind: str
    intensity: float
    """Floating-point operations a byte that must move."""
    tflops: float
    ours: bool


class Roofs(NamedTuple):
    """The best that peers showed in the same run."""

    terabytes_per_second: float
    """Of a copy, read and written."""
    tflops: float
    """Of any product."""

    def at(self, intensity: float) -> float:
        """TFLOP/s that they allow."""
        return min(intensity * self.terabytes_per_second, self.tflops)


def points(rows: Iterable[Row]) -> list[Point]:
    """Our kernels in burst, and the peer that each is compared with; the fallback is left out."""
    rows, found = list(rows), []
    fast = {row["case"] for row in rows if str(row["contender"]).startswith("gluon")}
    for row in rows:
        kind = next((kind for kind, families in _KINDS.items() if row["family"] in families), None)
        mine = str(row["contender"]).startswith(("gluon", "triton"))
        base = str(row["burst_ratio"]) in ("1.0", "1") and not mine
        fallback = row["case"] in fast and str(row["contender"]).startswith(_FALLBACK)
        if kind is None or not (mine or base) or fallback:
            continue
        intensity = float(row["intensity"])
        found.append(Point(kind, intensity, _tflops(row), mine))
    return found


def roofs(rows: Sequence[Row]) -> Roofs:
    """Raises ValueError if no copy or no product was measured."""
    copies = [float(row["burst"]) / 1e3 for row in rows if row["contender"] == "copy"]
    products = [float(row["burst"]) for row in rows if row["unit"] == "TFLOP/s"]
    if not copies or not products:
        raise ValueError("roofline: needs figures of a copy and of a product; measure without --only")
    return Roofs(max(copies), max(products))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the plot.

    Raises
    ------
    ValueError
        ``rows`` have no copy or no product to draw the roofs by.
    ModuleNotFoundError
        matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in rows if row.get("unit")]  # without the lines of goals
    roof = roofs(rows)
    # Moves compute nothing, and have no place in it.
    shown = [point for point in points(rows) if point.intensity > 0]
    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw_roof(above, roof, shown)
    _scatter(above, shown)
    above.set(yscale="log", ylabel="TFLOP/s, burst", ylim=(None, 3 * roof.tflops))
    above.legend(frameon=False, loc="lower right", fontsize=9)
    _scatter(below, [p._replace(tflops=p.tflops / roof.at(p.intensity)) for p in shown])
    below.axhline(1, color=_INK, linewidth=1.2)
    below.set(xscale="log", ylabel="share of the roof", ylim=(0, None))
    below.set_xlabel("floating-point operations a byte that must move")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=_FAINT, alpha=0.25, linewidth=0.6)
    figure.savefig(path, dpi=110, facecolor="white")


def _draw_roof(axes: Any, roof: Roofs, shown: Sequence[Point]) -> None:
    low, high = min(p.intensity for p in shown) / 2, max(p.intensity for p in shown) * 2
    ridge = roof.tflops / roof.terabytes_per_second
    axes.plot([low, ridge, high], [roof.at(x) for x in (low, ridge, high)], color=_INK, linewidth=1.2)
    slope = {"xytext": (-6, 8), "textcoords": "offset points", "ha": "right", "color": _INK}
    axes.annotate(f"copy {roof.terabytes_per_second:.2f} TB/s", (ridge / 30, roof.at(ridge / 30)), **slope)
    axes.annotate(f"fastest product {roof.tflops:.0f} TFLOP/s", (ridge, roof.tflops), **slope)


def _scatter(axes: Any, shown: Sequence[Point]) -> None:
    for (kind, _), color in zip(_KINDS.items(), _COLORS, strict=True):
        mine, peers = ([p for p in shown if p.kind == kind and p.ours is own] for own in (True, False))
        if not mine:
            continue
        axes.scatter(*_xy(peers), s=30, facecolors="none", edgecolors=color, linewidths=0.9)
        axes.scatter(*_xy(mine), s=26, color=color, label=kind, zorder=3)
    axes.scatter([], [], facecolors="none", edgecolors=_FAINT, label="the peer of each")


def _tflops(row: Row) -> float:
    if row["unit"] == "TFLOP/s":
        return float(row["burst"])
    return float(row["burst"]) * float(row["intensity"]) / 1e3


def _xy(found: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [p.intensity for p in found], [p.tflops for p in found]
