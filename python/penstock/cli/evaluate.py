"""``penstock evaluate``: bits per byte of held-out text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.outcome import JsonFlag, emit, guarded

__all__ = ["evaluate"]


@guarded
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a checkpoint in it.")],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Held-out text, may be given more than once; by default the run's own."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("-t", "--tokenizer", help="By default the one beside the run.")
    ] = None,
    max_bytes: Annotated[int, typer.Option(help="Score at most this much text; 0 means all.", min=0)] = 0,
    batch_size: Annotated[int, typer.Option(help="Windows a forward pass.", min=1)] = 8,
    seq_len: Annotated[int, typer.Option(help="Tokens a window; 0 means as in training.", min=0)] = 0,
    text_field: Annotated[str, typer.Option(help="The JSON key or column that holds the text.")] = "text",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Bits per byte of text that the model was not trained on: lower is better.

    Example: penstock evaluate run/ --data heldout.jsonl.zst
    """
    from penstock.errors import ConfigError, InputError
    from penstock.evaluate.bits_per_byte import bits_per_byte
    from penstock.pipelines.documents import read_documents
    from penstock.pipelines.trained import open_run
    from penstock.report.quantities import show_bytes

    files = data or [p for p in (run / "corpus" / "heldout.jsonl",) if p.exists()]
    if not files:
        raise ConfigError(f"{run}: no held-out text beside this run; name a file with --data")
    trained = open_run(run, tokenizer, device)
    longest = trained.model.config.max_position_embeddings
    if seq_len > longest:
        raise ConfigError(f"--seq-len {seq_len} is more than model.max_position_embeddings={longest}")

    def texts() -> Iterator[str]:
        empty = True
        for document in read_documents(files, text_field):
            empty &= not document.text
            yield document.text
        if empty:
            raise InputError(f"{', '.join(map(str, files))}: there is no text to score")

    score = bits_per_byte(
        trained.model,
        trained.tokenizer,
        texts(),
        seq_len=seq_len or min(trained.recipe.pack.seq_len, longest),
        batch_size=batch_size,
        device=trained.device,
        max_bytes=max_bytes,
    )
    result = {"bits_per_byte": score.value, **vars(score), "device": trained.device}
    emit(
        result,
        as_json,
        lambda: (
            f"{score.value:.4f} bits per byte: {score.documents:,} documents, "
            f"{show_bytes(score.bytes)}, {score.tokens:,} tokens"
        ),
    )
