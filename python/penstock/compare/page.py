"""A comparison as one self-contained page."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from penstock.compare import plots
from penstock.compare.figures import Comparison, Interval, cut_alike
from penstock.report import track
from penstock.report.page import escaped, facts, picture, render, section, table, write_text
from penstock.report.quantities import show_bytes, show_count, show_rate
from penstock.report.theme import inline_svg, style
from penstock.token_view import TokenPiece, TokenView

__all__ = ["render_comparison", "write_comparison"]

MAX_TOKEN_CHARACTERS = 24
UNIT = re.compile("⟨[^⟩]*⟩|.")
"""What stands for one character of a token."""


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write the page, by rename."""
    write_text(path, render_comparison(comparison))


def render_comparison(comparison: Comparison) -> str:
    """The page as text."""
    names = ", ".join(figures.name for figures in comparison.tokenizers)
    with style():
        sections = [
            _headline(comparison),
            _compression(comparison),
            _speed(comparison),
            _vocabulary(comparison),
            _longest(comparison),
            _numbers(comparison),
            _indentation(comparison),
            _record(comparison),
        ]
    return render("Tokenizers side by side", names, sections)


def _headline(comparison: Comparison) -> str:
    best = max(comparison.tokenizers, key=lambda figures: figures.bytes_per_token.value)
    return facts(
        {
            "most bytes a token": f"{best.bytes_per_token.value:.3f}",
            "by": best.name,
            "text": show_bytes(comparison.bytes),
            f"documents, {len(comparison.sources):,} sources": f"{comparison.documents:,}",
        }
    )


def _compression(comparison: Comparison) -> str:
    height = plots.sources_inches(comparison)
    figure = plots.single(plots.bytes_plot, comparison, height, legend=len(comparison.tokenizers) > 1)
    rows = [
        _row(
            "all text",
            [
                f"{comparison.documents:,}",
                show_bytes(comparison.bytes),
                *(_interval(figures.bytes_per_token) for figures in comparison.tokenizers),
            ],
        )
    ]
    rows += [
        _row(
            source.name,
            [
                f"{source.documents:,}",
                show_bytes(source.bytes),
                *(_interval(figures.by_source[source.name]) for figures in comparison.tokenizers),
            ],
        )
        for source in comparison.sources
    ]
    first = comparison.tokenizers[0]
    changes = [
        f"{figures.name} needs {_change(figures.tokens_against_first)}"
        for figures in comparison.tokenizers[1:]
    ]
    against = f" Beside {first.name}, {'; '.join(changes)}." if changes else ""
    words = (
        "How much text a token stands for. Intervals hold 95 % of 1,000 draws of as many documents, with "
        f"replacement, source by source.{against}"
    )
    columns = ["documents", "text", *(figures.name for figures in comparison.tokenizers)]
    body = picture(inline_svg(figure, "bytes", "bytes a token by source and tokenizer"))
    return section("Bytes a token", words, body + table(_head("source", columns), "".join(rows)))


def _speed(comparison: Comparison) -> str:
    figure = plots.single(plots.speed_plot, comparison, _bars_inches(comparison))
    rows = "".join(
        _row(
            figures.name,
            [
                f"{figures.tokens:,}",
                show_count(figures.tokens_per_second),
                show_rate(comparison.bytes, figures.seconds, "B"),
            ],
        )
        for figures in comparison.tokenizers
    )
    words = (
        f"One pass over text not seen before, in turns of about 1 MB, {comparison.threads} "
        f"thread{'s' if comparison.threads > 1 else ''}, all with penstock's encoder. A vocabulary with "
        "longer tokens makes fewer of them a second from the same bytes."
    )
    body = picture(inline_svg(figure, "speed", "tokens a second by tokenizer"))
    return section(
        "Speed", words, body + table(_head("tokenizer", ["tokens", "tokens a second", "text a second"]), rows)
    )


def _vocabulary(comparison: Comparison) -> str:
    figure = plots.single(plots.use_plot, comparison, _bars_inches(comparison))
    rows = "".join(
        _row(
            figures.name,
            [
                f"{figures.vocab_size:,}",
                f"{figures.vocabulary.used:,}",
                f"{figures.vocabulary.tokens - figures.vocabulary.used:,}",
                f"{figures.vocabulary.unreachable:,}",
                f"{figures.vocabulary.partial:,}",
            ],
        )
        for figures in comparison.tokenizers
    )
    columns = ["tokens", "used", "never used", "unreachable", "part of a character"]
    words = (
        "Never used: those, special tokens aside, that do not turn up in this corpus; a larger corpus uses "
        "more. Unreachable: the token's own text, encoded alone, gives other tokens, because the split or "
        "the merges never make it. Tokens that hold part of a character cannot be tried that way."
    )
    examples = "".join(
        f"<details><summary>{escaped(figures.name)}</summary>"
        f"<p>First by id that were never used: {_tokens(figures.vocabulary.never_used)}</p>"
        f"<p>First by id that are unreachable: {_tokens(figures.vocabulary.unreachable_examples)}</p>"
        "</details>"
        for figures in comparison.tokenizers
    )
    body = picture(inline_svg(figure, "use", "share of the vocabulary that is used"))
    return section("Vocabulary", words, body + table(_head("tokenizer", columns), rows) + examples)


def _longest(comparison: Comparison) -> str:
    columns = []
    for figures in comparison.tokenizers:
        rows = "".join(
            f"<tr><th><code>{escaped(_short(piece))}</code></th><td class=n>{len(piece.bytes):,}</td>"
            f"<td class=n>{count:,}</td></tr>"
            for piece, count in figures.vocabulary.longest
        )
        head = f"<tr><th>{escaped(figures.name)}<th class=n>bytes<th class=n>times</tr>"
        columns.append(table(head, rows))
    words = (
        "The longest tokens and how often the corpus has them: a hint of what a vocabulary was trained on."
    )
    return section("Longest tokens", words, f'<div class="columns">{"".join(columns)}</div>')


def _numbers(comparison: Comparison) -> str:
    figure = plots.single(plots.digits_plot, comparison, 2.4, legend=len(comparison.tokenizers) > 1)
    words = "Each colour is a token. The plot shows the mean over 200 random numbers of each length."
    body = _views([(figures.name, figures.number_view) for figures in comparison.tokenizers])
    return section(
        "Numbers", words, body + picture(inline_svg(figure, "digits", "tokens of a number by its digits"))
    )


def _indentation(comparison: Comparison) -> str:
    names = list(comparison.tokenizers[0].indent_tokens)
    rows = "".join(
        _row(name, [str(figures.indent_tokens[name]) for figures in comparison.tokenizers]) for name in names
    )
    words = "How code is split, and how many tokens an indentation adds to a line."
    body = _views([(figures.name, figures.code_view) for figures in comparison.tokenizers])
    head = _head("indentation", [figures.name for figures in comparison.tokenizers])
    return section("Indentation of code", words, body + table(head, rows))


def _record(comparison: Comparison) -> str:
    rows = "".join(
        f"<tr><th>{escaped(f.name)}</th><td>{escaped(f.path)}, pattern {escaped(f.pattern)}, "
        f"sha256 {f.sha256[:16]}</td></tr>"
        for f in comparison.tokenizers
    )
    machine = track.machine()
    rows += f"<tr><th>machine</th><td>{escaped(machine['processor'])}, {machine['cores']} cores</td></tr>"
    rows += f"<tr><th>penstock</th><td>{escaped(track.versions()['penstock'])}</td></tr>"
    cut = (
        "The corpus was read up to the limit of --max-bytes, not to its end." if comparison.truncated else ""
    )
    return section("Record", cut, table("", rows))


def _views(views: Sequence[tuple[str, TokenView]]) -> str:
    return "".join(
        f"<h3>{escaped(', '.join(names))}</h3>{view.to_html()}" for names, view in cut_alike(views)
    )


def _head(first: str, columns: Sequence[str]) -> str:
    return f"<tr><th>{escaped(first)}" + "".join(f"<th class=n>{escaped(name)}" for name in columns) + "</tr>"


def _row(name: str, values: Sequence[str]) -> str:
    cells = "".join(f"<td class=n>{value}</td>" for value in values)
    return f"<tr><th>{escaped(name)}</th>{cells}</tr>"


def _interval(value: Interval) -> str:
    """A figure and, small below it, its interval; HTML."""
    if value.low is None or value.high is None:
        return f"{value.value:.3f}"
    return f"{value.value:.3f}<br><small>{value.low:.3f} to {value.high:.3f}</small>"


def _change(ratio: Interval) -> str:
    """``3.1 % fewer tokens (2.9 to 3.4)``."""
    if ratio.value == 1:
        return "as many tokens"
    fewer = ratio.value < 1
    percents = [100 * abs(1 - end) for end in (ratio.low, ratio.high) if end is not None]
    words = f"{100 * abs(1 - ratio.value):.1f} % {'fewer' if fewer else 'more'} tokens"
    crosses = ratio.low is not None and ratio.high is not None and ratio.low < 1 < ratio.high
    if crosses:
        return f"{words} (not certain)"
    return f"{words} ({min(percents):.1f} to {max(percents):.1f})" if percents else words


def _tokens(pieces: Sequence[TokenPiece]) -> str:
    return " ".join(f"<code>{escaped(_short(piece))}</code>" for piece in pieces) or "none"


def _short(piece: TokenPiece) -> str:
    """A token in one line; a run of one character as that character and its length."""
    units = UNIT.findall(str(piece).replace("\n", ""))
    runs = [(unit, len(list(run))) for unit, run in itertools.groupby(units)]
    words = "".join(f"{unit}×{length} " if length > 4 else unit * length for unit, length in runs).strip()
    return words if len(words) <= MAX_TOKEN_CHARACTERS else words[: MAX_TOKEN_CHARACTERS - 1] + "…"


def _bars_inches(comparison: Comparison) -> float:
    return 0.7 + 0.3 * len(comparison.tokenizers)
