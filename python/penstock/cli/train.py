"""``penstock train``: a recipe from ``[data]`` on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.outcome import JsonFlag, Overrides, emit, guarded

__all__ = ["train"]


@guarded
def train(
    recipe: Annotated[
        str, typer.Argument(help="A built-in recipe's name (tiny, pretrain_moe) or a TOML file.")
    ],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The run's folder, in place of the recipe's train.out.")
    ] = None,
    overrides: Overrides = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start anew; what an earlier run left is moved aside.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train the model of a recipe on packed rows, from the newest checkpoint if there is one.

    Example: penstock train pretrain_moe --set data.path=packed/ --set tokenizer.path=tok/
    """
    from penstock.pipelines.recipes import load_recipe
    from penstock.report.progress import open_view, step_callback
    from penstock.report.quantities import show_count, show_seconds

    changes = list(overrides or ())
    config = load_recipe(recipe, changes, {"train.out": str(out)} if out else {})
    from penstock import train as training

    with open_view(as_json) as view:
        report = training.run(config, progress=step_callback(view, "train"), resume=not restart)

    def words() -> str:
        loss = "no step was left to do" if report.loss is None else f"loss {report.loss:.4f}"
        return (
            f"{report.out}: {report.steps:,} steps, {loss}, {show_count(report.tokens)} tokens in "
            f"{show_seconds(report.seconds)} ({show_count(report.tokens_per_s)} tokens/s), "
            f"{report.precision} on {report.device}\ncheckpoint: {report.checkpoint}"
        )

    emit(report, as_json, words)
