"""``penstock tokenizer compare``: tokenizers side by side on a corpus."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.outcome import JsonFlag, emit, guarded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.compare import Comparison

__all__ = ["compare"]

MEGABYTE = 1_000_000


@guarded
def compare(
    tokenizers: Annotated[
        list[str],
        typer.Argument(
            help="\\[NAME=]PATH\\[@PATTERN], a folder, a tokenizer.json or a .tiktoken file; the others are "
            "compared with the first. A .tiktoken file needs its pattern, as in x.tiktoken@cl100k."
        ),
    ],
    corpus: Annotated[
        list[Path],
        typer.Option("--corpus", help="A text file or a folder of them; may be given more than once."),
    ],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="A .html page to write.")] = None,
    png: Annotated[Path | None, typer.Option("--png", help="A .png with all plots to write.")] = None,
    text_field: Annotated[str, typer.Option(help="The JSON key or column that holds the text.")] = "text",
    max_bytes: Annotated[int, typer.Option(help="Read at most this much text; 0 means all.")] = 200
    * MEGABYTE,
    threads: Annotated[int, typer.Option(help="For the speeds.")] = 1,
    as_json: JsonFlag = False,
) -> None:
    """Set tokenizers side by side on a corpus: bytes a token by source, speed, use of the vocabulary.

    Sources are the documents' `source`, or the files they stand in.

    Example: penstock tokenizer compare tok/ gpt4=cl100k_base.tiktoken@cl100k --corpus heldout/ --out out.html
    """
    from penstock.compare import compare_tokenizers, load_subjects
    from penstock.compare.figures import as_plain
    from penstock.compare.terminal import as_tables
    from penstock.report.progress import Update, open_view

    _check_targets(out, png)
    subjects = load_subjects(tokenizers)
    began = time.monotonic()
    with open_view(as_json) as view:
        found = compare_tokenizers(
            subjects,
            _documents(corpus, text_field),
            threads=threads,
            max_bytes=max_bytes,
            progress=lambda done: view.update(Update("compare", done, 0, "B", time.monotonic() - began)),
        )
    _write(found, out, png)
    emit(as_plain(found), as_json, lambda: as_tables(found, sys.stdout))


def _documents(corpus: list[Path], text_field: str) -> Iterator[tuple[str, str]]:
    """Pairs of source and text; where documents name no source, their file does."""
    from penstock.pipelines.documents import expand_paths, read_documents

    for path in expand_paths(corpus):
        for document in read_documents([path], text_field):
            yield document.source or path.name, document.text


def _check_targets(out: Path | None, png: Path | None) -> None:
    """Refuse what cannot be written before the work rather than after it."""
    from penstock.errors import ConfigError

    for option, path, suffix in (("--out", out, ".html"), ("--png", png, ".png")):
        if path is None:
            continue
        import matplotlib  # noqa: F401 (a missing extra is said now)

        if path.suffix != suffix:
            raise ConfigError(f"{option} {path}: expected a name that ends in {suffix}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{option} {path}: no folder to write into: {error.strerror}") from error


def _write(found: Comparison, out: Path | None, png: Path | None) -> None:
    from penstock.errors import ConfigError

    try:
        if out is not None:
            from penstock.compare.page import write_comparison

            write_comparison(found, out)
        if png is not None:
            from penstock.compare.plots import save_png

            save_png(found, png)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be written: {error.strerror}") from error
