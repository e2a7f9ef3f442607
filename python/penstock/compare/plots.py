"""The pictures of a comparison: each draws on axes it is given, so that page and PNG show the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from penstock.compare.figures import Comparison, Interval
from penstock.report.theme import FAINT, INK, SERIES, style

__all__ = ["bytes_plot", "digits_plot", "save_png", "single", "sources_inches", "speed_plot", "use_plot"]

WIDTH_INCHES = 7.6
MAX_SOURCES = 20
ROW_INCHES = 0.3
MARKS = "os^Dv"
DPI = 200


def bytes_plot(axes: Any, comparison: Comparison) -> None:
    """Bytes a token by source, a dot a tokenizer with its interval, all text on top."""
    names = ["all text", *(source.name for source in comparison.sources[:MAX_SOURCES])]
    tokenizers = comparison.tokenizers
    for i, figures in enumerate(tokenizers):
        values = [figures.bytes_per_token, *(figures.by_source[name] for name in names[1:])]
        shift = 0.5 * (i - (len(tokenizers) - 1) / 2) / max(len(tokenizers), 3)
        for row, value in enumerate(values):
            low, high = _ends(value)
            axes.plot([low, high], [row + shift] * 2, color=colour(i), linewidth=1.4, alpha=0.55)
        rows = [row + shift for row in range(len(values))]
        dots = [value.value for value in values]
        axes.plot(dots, rows, mark(i), color=colour(i), markersize=4.6, label=_shown(figures.name))
    axes.axhline(0.5, color=FAINT, linewidth=0.8)
    axes.set_yticks(range(len(names)), [_shown(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel("bytes a token, higher is better; lines are 95 % intervals over documents")
    _plain_names(axes)


def speed_plot(axes: Any, comparison: Comparison) -> None:
    """Tokens a second of each tokenizer."""
    speeds = [figures.tokens_per_second / 1e6 for figures in comparison.tokenizers]
    _bars(axes, comparison, speeds, [f"{speed:.2f}" for speed in speeds])
    threads = f"{comparison.threads} thread{'s' if comparison.threads > 1 else ''}"
    axes.set_xlabel(f"million tokens a second, {threads}")


def use_plot(axes: Any, comparison: Comparison) -> None:
    """The share of each vocabulary that the corpus uses."""
    shares = [100 * figures.vocabulary.used_share for figures in comparison.tokenizers]
    counts = [figures.vocabulary.used for figures in comparison.tokenizers]
    words = [f"{share:.0f} %, {count:,}" for share, count in zip(shares, counts, strict=True)]
    _bars(axes, comparison, shares, words)
    axes.set_xlabel("% of the vocabulary that turns up in the corpus")


def digits_plot(axes: Any, comparison: Comparison) -> None:
    """Tokens of a number by its digits."""
    for i, figures in enumerate(comparison.tokenizers):
        # A little aside, since tokenizers with one rule for digits would hide each other.
        aside = 0.05 * (i - (len(comparison.tokenizers) - 1) / 2)
        digits = [n + 1 + aside for n in range(len(figures.number_tokens))]
        axes.plot(
            digits,
            figures.number_tokens,
            mark(i) + "-",
            color=colour(i),
            markersize=4,
            linewidth=1.4,
            label=_shown(figures.name),
        )
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.set_xticks(range(1, len(comparison.tokenizers[0].number_tokens) + 1))
    axes.set_xlabel("digits of a number")
    axes.set_ylabel("mean tokens")


def single(draw: Any, comparison: Comparison, height_inches: float, legend: bool = False) -> Any:
    """One plot as a figure of its own."""
    figure, axes = _figure(height_inches), None
    axes = figure.add_subplot()
    draw(axes, comparison)
    if legend:
        _legend(axes, comparison)
    return figure


def sources_inches(comparison: Comparison) -> float:
    """The height that ``bytes_plot`` needs."""
    rows = 1 + min(len(comparison.sources), MAX_SOURCES)
    return 0.8 + rows * max(ROW_INCHES, 0.07 * len(comparison.tokenizers))


def save_png(comparison: Comparison, path: Path) -> None:
    """All plots on one sheet, on white."""
    with style():
        bars = 0.8 + 0.32 * len(comparison.tokenizers)
        heights = [sources_inches(comparison), bars, 2.4]
        figure = _figure(sum(heights) + 0.6)
        figure.set_layout_engine("constrained", h_pad=0.15, wspace=0.06)
        grid = figure.add_gridspec(3, 2, height_ratios=heights)
        top = figure.add_subplot(grid[0, :])
        bytes_plot(top, comparison)
        _legend(top, comparison)
        speed_plot(figure.add_subplot(grid[1, 0]), comparison)
        use_plot(figure.add_subplot(grid[1, 1]), comparison)
        digits_plot(figure.add_subplot(grid[2, :]), comparison)
        part = path.with_name(path.name + ".part")
        figure.savefig(part, format="png", dpi=DPI, facecolor="#ffffff", bbox_inches="tight", pad_inches=0.25)
        part.replace(path)


def colour(i: int) -> str:
    """Of the i-th tokenizer."""
    return SERIES[i % len(SERIES)]


def mark(i: int) -> str:
    """Differs where colours come round again."""
    return MARKS[(i // len(SERIES)) % len(MARKS)]


def _bars(axes: Any, comparison: Comparison, values: list[float], words: list[str]) -> None:
    names = [_shown(figures.name) for figures in comparison.tokenizers]
    rows = range(len(names))
    axes.barh(rows, values, color=[colour(i) for i in rows], height=0.6)
    axes.set_yticks(rows, names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    for row, (value, word) in enumerate(zip(values, words, strict=True)):
        axes.annotate(
            word,
            (value, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=8.5,
        )
    axes.set_xlim(0, 1.35 * max(values))
    _plain_names(axes)


def _plain_names(axes: Any) -> None:
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines["left"].set_visible(False)


def _legend(axes: Any, comparison: Comparison) -> None:
    columns = min(len(comparison.tokenizers), 4)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, handletextpad=0.3, borderaxespad=0.2)


def _ends(value: Interval) -> tuple[float, float]:
    if value.low is None or value.high is None:
        return value.value, value.value
    return value.low, value.high


def _shown(name: str) -> str:
    """A name as plain words: matplotlib reads dollars as mathematics, and an underscore hides a label."""
    words = name.replace("$", r"\$").lstrip("_") or "unnamed"
    return words if len(words) <= 28 else words[:27] + "…"


def _figure(height_inches: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height_inches))
    FigureCanvasAgg(figure)
    return figure
