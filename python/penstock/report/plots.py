"""The plots of a run. Each function draws one figure from plain numbers and returns it.

Figures are made without pyplot, so nothing global is touched and no display is needed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.report.theme import ACCENT, FAINT, GRID, INK, PAPER

__all__ = ["bits_per_byte_plot", "compression_plot", "expert_load_plot", "loss_plot", "smoothed"]

WIDTH_INCHES = 7.6
HEAT_COLUMNS = 60


def loss_plot(metrics: Sequence[Mapping[str, Any]]) -> Any:
    """Training loss by step: each step faintly, the running mean firmly, that of MTP beside it.

    Parameters
    ----------
    metrics
        Lines of ``metrics.jsonl``; their ``step``, ``loss`` and ``mtp_loss`` (nats a token) are drawn, and
        steps without a finite loss left out.
    """
    figure, axes = _canvas(3.0)
    ends = []
    for key, label, colour in (("mtp_loss", "multi-token prediction", FAINT), ("loss", "next token", ACCENT)):
        points = [(line["step"], line[key]) for line in metrics if line.get(key) is not None]
        if not points:
            continue
        steps, losses = [p[0] for p in points], [p[1] for p in points]
        mean = smoothed(losses)
        axes.plot(steps, losses, color=colour, linewidth=0.8, alpha=0.3)
        axes.plot(steps, mean, color=colour, linewidth=1.8)
        ends.append((mean[-1], steps[-1], f"{label} {mean[-1]:.3f}", colour))
    # The lower curve's name hangs below its end and the higher one's stands above: they never meet.
    for rank, (loss, step, label, colour) in enumerate(sorted(ends)):
        axes.annotate(
            label,
            (step, loss),
            xytext=(5, 3 if rank else -3),
            textcoords="offset points",
            color=colour,
            va="bottom" if rank else "top",
            annotation_clip=False,
        )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss, nats a token")
    axes.grid(axis="y")
    return figure


def bits_per_byte_plot(before: float, after: float, bigram: float | None) -> Any:
    """Held-out bits per byte before and after training, with the bigram model's as a line to beat."""
    figure, axes = _canvas(1.5)
    axes.barh(["after training", "before"], [after, before], color=[ACCENT, GRID], height=0.58)
    for row, value in enumerate((after, before)):
        axes.annotate(
            f"{value:.3f}",
            (value, row),
            xytext=(-8, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=PAPER if row == 0 else INK,
            fontweight="bold",
        )
    if bigram is not None:
        axes.axvline(bigram, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate(
            f"bigram model {bigram:.3f}",
            (bigram, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            color=INK,
        )
    axes.set_xlim(0, max(before, after, bigram or 0) * 1.12)
    axes.set_xlabel("bits per byte of held-out text, lower is better")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    return figure


def compression_plot(bytes_per_token: Mapping[str, float]) -> Any:
    """Bytes a token stands for, by source."""
    labels = list(bytes_per_token)
    figure, axes = _canvas(0.7 + 0.3 * len(labels))
    values = [bytes_per_token[label] for label in labels]
    axes.barh(labels, values, color=ACCENT, height=0.58)
    axes.invert_yaxis()
    for row, value in enumerate(values):
        axes.annotate(
            f"{value:.2f}", (value, row), xytext=(6, 0), textcoords="offset points", va="center", color=INK
        )
    axes.set_xlim(0, max(values) * 1.12)
    axes.set_xlabel("bytes a token, higher is better")
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    return figure


def expert_load_plot(load: Sequence[Sequence[float]], steps: Sequence[int]) -> Any:
    """A heat map, a row a MoE layer and a column a stretch of steps, of the fullest expert's load.

    Parameters
    ----------
    load
        For each step, for each MoE layer: the tokens of the fullest expert over the mean; 1 is balance.
    steps
        The step of each entry of ``load``.
    """
    from matplotlib.patches import Rectangle

    layers = len(load[0])
    figure, axes = _canvas(0.9 + 0.26 * layers)
    edges = _edges(len(load))
    means = [
        [sum(row[layer] for row in load[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
        for layer in range(layers)
    ]
    top = max(2.0, max(map(max, means)))
    at = [steps[min(edge, len(steps) - 1)] for edge in edges]
    at[-1] = steps[-1] + 1
    for layer, row in enumerate(means):
        for column, value in enumerate(row):
            left, width = at[column], at[column + 1] - at[column]
            shade = 0.06 + 0.94 * min((value - 1) / (top - 1), 1.0)
            axes.add_patch(
                Rectangle((left, layer - 0.44), width, 0.88, color=ACCENT, alpha=shade, linewidth=0)
            )
        axes.annotate(
            f" {row[-1]:.2f}", (at[-1], layer), va="center", color=INK, fontsize=8.5, annotation_clip=False
        )
    axes.set_xlim(at[0], at[-1])
    axes.set_ylim(layers - 0.5, -0.5)
    axes.set_yticks(range(layers), [f"MoE layer {layer + 1}" for layer in range(layers)])
    axes.set_xlabel(
        f"optimizer step; faintest 1.0 (balance), strongest {top:.1f}; the last value stands at the right"
    )
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    return figure


def smoothed(values: Sequence[float], span: int | None = None) -> list[float]:
    """Exponential running mean without a bias at the start; ``span`` defaults to a twentieth."""
    span = span or max(len(values) // 20, 1)
    keep = 1 - 1 / span
    mean, weight, out = 0.0, 0.0, []
    for value in values:
        mean = keep * mean + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        out.append(mean / weight)
    return out


def _edges(count: int) -> list[int]:
    """Borders of at most HEAT_COLUMNS stretches of nearly equal length."""
    columns = min(count, HEAT_COLUMNS)
    return [math.floor(i * count / columns) for i in range(columns + 1)]


def _canvas(height_inches: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height_inches))
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
