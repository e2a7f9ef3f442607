"""What pages are made of: sections, figures, tables. Nothing is fetched from anywhere."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from penstock.report.page_style import PAGE_STYLE

__all__ = ["escaped", "facts", "picture", "render", "section", "table", "write_text"]


def render(title: str, subtitle: str, sections: Sequence[str]) -> str:
    """The page as text; title and subtitle are words, sections are HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{PAGE_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escaped(title)}</h1><p>{escaped(subtitle)}</p></header>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def write_text(path: Path, page: str) -> None:
    """Write the page, by rename."""
    part = path.with_name(path.name + ".part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)


def facts(values: Mapping[str, str]) -> str:
    """Headline figures, label to value."""
    cells = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in values.items()
    )
    return f'<dl class="facts">{cells}</dl>' if cells else ""


def section(title: str, words: str, body: str) -> str:
    """A heading, a sentence or two, and HTML."""
    lead = f"<p>{escaped(words)}</p>" if words else ""
    return f"<section><h2>{escaped(title)}</h2>{lead}{body}</section>"


def picture(svg: str, caption: str = "") -> str:
    """A picture and what it shows."""
    words = f"<figcaption>{escaped(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg}{words}</figure>"


def table(head: str, rows: str) -> str:
    """A table of ready rows; a wide one scrolls by itself."""
    thead = f"<thead>{head}</thead>" if head else ""
    return f'<div class="scroll"><table>{thead}<tbody>{rows}</tbody></table></div>'


def escaped(value: str) -> str:
    """Words as HTML."""
    return html.escape(value)
