"""``penstock inspect``: what a tokenizer, dataset, shard, manifest or checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.outcome import JsonFlag, emit, guarded

__all__ = ["inspect"]


@guarded
def inspect(
    path: Annotated[Path, typer.Argument(help="What it is is found out.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read and check every stored byte of a dataset or checkpoint.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Say what a tokenizer, packed dataset, shard, manifest, checkpoint or run holds.

    Example: penstock inspect packed/ --verify
    """
    from penstock.cli.contents import describe
    from penstock.cli.table import two_columns

    facts = describe(path, verify)
    emit(facts, as_json, lambda: two_columns(facts))
