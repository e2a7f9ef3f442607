"""One look for plots and page: quiet ink, one accent, light and dark.

Plots are drawn with marker colours; in an inline SVG each becomes a CSS variable of the page, so that a
plot follows the reader's light or dark setting.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["ACCENT", "CSS_VARIABLES", "FAINT", "GRID", "INK", "PAPER", "SERIES", "inline_svg", "style"]

# Marker colours; any rare values do.
INK = "#1c2126"
FAINT = "#6b7582"
GRID = "#e3e7eb"
ACCENT = "#0f766e"
PAPER = "#fffefd"
SERIES = (ACCENT, "#c2570b", "#2563c8", "#a8327f", "#6b7a11", "#6d4fc5")
"""For what stands side by side, the accent first; more than these need another mark."""

_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    GRID: "var(--rule)",
    ACCENT: "var(--accent)",
    PAPER: "var(--paper)",
    **{colour: f"var(--series-{i})" for i, colour in enumerate(SERIES) if colour != ACCENT},
}

CSS_VARIABLES = """
:root { color-scheme: light dark;
  --ink: #1c2126; --faint: #6b7582; --rule: #e3e7eb; --paper: #ffffff; --panel: #f6f8f9; --accent: #0f766e;
  --series-1: #c2570b; --series-2: #2563c8; --series-3: #a8327f; --series-4: #6b7a11; --series-5: #6d4fc5; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e6e9ec; --faint: #98a2ad; --rule: #2c333b; --paper: #14181c; --panel: #1b2026;
  --accent: #2dd4bf; --series-1: #fb923c; --series-2: #7cb0ff; --series-3: #f08ac6; --series-4: #bfd04a;
  --series-5: #b5a0ff; } }
"""

_RC: dict[str, Any] = {
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.labelcolor": FAINT,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": FAINT,
    "xtick.labelsize": 8.5,
    "ytick.color": FAINT,
    "ytick.labelsize": 8.5,
}


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's settings for one plot, put back afterwards."""
    import matplotlib

    with matplotlib.rc_context({**_RC, "savefig.facecolor": "none", "figure.facecolor": "none"}):
        yield


def inline_svg(figure: Any, salt: str, title: str) -> str:
    """The figure as an SVG element to stand inside a page.

    ``salt`` makes its internal ids differ from those of other plots of the page; ``title`` is read aloud
    in place of the picture.
    """
    import matplotlib

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": salt, "svg.id": salt}):
        figure.savefig(buffer, format="svg", metadata=nothing, bbox_inches="tight", pad_inches=0.04)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'\bid="((?:figure|patch|axes|line2d|matplotlib\.axis|xtick|ytick|text)_\d+)"', "", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px; font-family: inherit", text)
    for marker, variable in _VARIABLES.items():
        text = text.replace(marker, variable)
    label = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()
