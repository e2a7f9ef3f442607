"""``loss.png``: the loss of a run, drawn from its metrics."""

from __future__ import annotations

import logging
from pathlib import Path

from penstock.report.plots import loss_plot
from penstock.report.theme import PAPER, style
from penstock.train.metrics import read_metrics

__all__ = ["plot_loss"]

log = logging.getLogger("penstock.train")


def plot_loss(metrics: Path, target: Path) -> Path | None:
    """Draw a metrics file; None where it has no finite loss or matplotlib is not installed."""
    lines = read_metrics(metrics)
    if all(line.get("loss") is None for line in lines):
        return None
    try:
        with style():
            loss_plot(lines).savefig(target, dpi=150, facecolor=PAPER, bbox_inches="tight")
    except ImportError:
        log.warning("no %s: matplotlib is not installed (pip install 'penstock[train]')", target.name)
        return None
    return target
