"""A comparison as tables for a terminal."""

from __future__ import annotations

import io
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock.compare.figures import Comparison, Interval, cut_alike
from penstock.report.quantities import show_bytes, show_count

__all__ = ["as_tables"]


def as_tables(comparison: Comparison, stream: IO[str]) -> str:
    """The text of the tables, coloured if ``stream`` is a terminal that wants colours."""
    console = Console(file=io.StringIO(), force_terminal=stream.isatty() or None, highlight=False)
    with console.capture() as capture:
        console.print(_overview(comparison))
        console.print(_by_source(comparison))
        for views in (
            [(figures.name, figures.number_view) for figures in comparison.tokenizers],
            [(figures.name, figures.code_view) for figures in comparison.tokenizers],
        ):
            for names, view in cut_alike(views):
                console.print(Text.assemble("\n", (_words(", ".join(names)).plain, "bold")))
                console.print(Text(str(view).rstrip()), soft_wrap=True)
    return capture.get().rstrip("\n")


def _overview(comparison: Comparison) -> Table:
    words = f"{comparison.documents:,} documents, {show_bytes(comparison.bytes)}"
    table = _table(words + (" (cut at --max-bytes)" if comparison.truncated else ""))
    table.add_column("tokenizer", style="bold", overflow="fold")
    for name in (
        "tokens",
        "bytes a token",
        "tokens against first",
        "tokens/s",
        "MB/s",
        "used",
        "unreachable",
    ):
        table.add_column(name, justify="right")
    for figures in comparison.tokenizers:
        rate = comparison.bytes / figures.seconds / 1e6 if figures.seconds else 0.0
        table.add_row(
            _words(figures.name),
            f"{figures.vocab_size:,}",
            _interval(figures.bytes_per_token),
            _interval(figures.tokens_against_first),
            show_count(figures.tokens_per_second),
            f"{rate:.1f}",
            f"{100 * figures.vocabulary.used_share:.1f} %",
            f"{figures.vocabulary.unreachable:,}",
        )
    return table


def _by_source(comparison: Comparison) -> Table:
    table = _table("bytes a token by source")
    table.add_column("source", overflow="fold")
    table.add_column("documents", justify="right")
    table.add_column("text", justify="right")
    for figures in comparison.tokenizers:
        table.add_column(_words(figures.name), justify="right", overflow="fold")
    for source in comparison.sources:
        cells = [_interval(figures.by_source[source.name]) for figures in comparison.tokenizers]
        table.add_row(_words(source.name), f"{source.documents:,}", show_bytes(source.bytes), *cells)
    return table


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )


def _words(name: str) -> Text:
    """A name that can neither style the table nor steer the terminal."""
    return Text("".join(char if char.isprintable() else f"<U+{ord(char):04X}>" for char in name))


def _interval(value: Interval) -> str:
    if value.low is None or value.high is None:
        return f"{value.value:.3f}"
    return f"{value.value:.3f} ±{(value.high - value.low) / 2:.3f}"
