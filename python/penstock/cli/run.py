"""``penstock run``: a whole recipe, stage by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.outcome import JsonFlag, Overrides, emit, guarded

__all__ = ["run"]


@guarded
def run(
    recipe: Annotated[
        str, typer.Argument(help="A built-in recipe's name (tiny, pretrain_moe) or a TOML file.")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The run's folder; runs/<recipe> by default.")
    ] = None,
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            "--corpus", help="A file of text to train on, or a folder; may be given more than once."
        ),
    ] = None,
    overrides: Overrides = None,
    restart: Annotated[bool, typer.Option("--restart", help="Do all stages again.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Raw text to a tokenizer, packed shards, a trained model and report.html.

    What is done already is skipped, so the same command goes on after an interruption.

    Example: penstock run tiny --set train.steps=400
    """
    from penstock.pipelines import runner
    from penstock.report.progress import open_view

    with open_view(as_json) as view:
        report = runner.run(recipe, overrides or (), out=out, corpus=corpus or (), restart=restart, view=view)
    emit(report, as_json, lambda: runner.summary(report))
