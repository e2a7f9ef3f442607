"""``penstock generate``: text from a trained model."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.outcome import JsonFlag, emit, guarded

__all__ = ["generate"]


@guarded
def generate(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a checkpoint in it.")],
    prompt: Annotated[str, typer.Argument(help="What the text starts with.")] = "",
    tokenizer: Annotated[
        Path | None, typer.Option("-t", "--tokenizer", help="By default the one beside the run.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens to generate at most.", min=0)] = 120,
    temperature: Annotated[float, typer.Option(help="0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Only the k likeliest tokens; 0 means all.")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Only the likeliest tokens that have this probability.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Continue a text, as it comes.

    Example: penstock generate run/ "def "
    """
    from penstock.generate.sample import SampleOptions, stream_text
    from penstock.pipelines.trained import open_run

    options = SampleOptions(
        max_new_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    trained = open_run(run, tokenizer, device)
    pieces = stream_text(trained.model, trained.tokenizer, prompt, options)
    if as_json:
        emit({"prompt": prompt, "text": "".join(pieces)}, True, str)
        return
    # The first piece before the prompt: what is refused is refused before anything is printed.
    first = next(pieces, "")
    sys.stdout.write(prompt)
    for piece in itertools.chain([first], pieces):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
