"""``penstock pack``: documents into Arrow shards of fixed rows."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.outcome import JsonFlag, emit, guarded

__all__ = ["pack"]


class Mode(StrEnum):
    """How documents become rows."""

    best_fit = "best_fit"
    concatenate = "concatenate"


class Compression(StrEnum):
    """Of shard bodies."""

    none = "none"
    lz4 = "lz4"
    zstd = "zstd"


class BadLine(StrEnum):
    """What a line that cannot be read does."""

    fail = "fail"
    skip = "skip"


@guarded
def pack(
    files: Annotated[
        list[Path], typer.Argument(help=".jsonl, .txt, .parquet or .arrow; plain, .gz or .zst.")
    ],
    tokenizer: Annotated[
        Path,
        typer.Option("-t", "--tokenizer", help="A tokenizer folder, or a .json, .tiktoken or .model file."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The folder to write.")],
    seq_len: Annotated[int, typer.Option(help="Tokens a row.")] = 4096,
    mtp_depth: Annotated[
        int, typer.Option(help="Depth of multi-token prediction: so many more targets a row.")
    ] = 1,
    mode: Annotated[
        Mode, typer.Option(help="best_fit cuts only documents longer than a row.")
    ] = Mode.best_fit,
    seed: Annotated[
        int, typer.Option(help="Of the order of documents in a row, and of which tokens are split.")
    ] = 0,
    boundary_split: Annotated[
        float,
        typer.Option(help="Share of the tokens joining punctuation and line breaks that are split in two."),
    ] = 0.0,
    compression: Annotated[Compression, typer.Option(help="none can be memory-mapped.")] = Compression.none,
    shard_mib: Annotated[int, typer.Option(help="Size of a shard in MiB.", min=1)] = 128,
    text_field: Annotated[str, typer.Option(help="The JSON key or column that holds the text.")] = "text",
    on_bad_line: Annotated[
        BadLine, typer.Option(help="Stop at a line that cannot be read, or skip and count it.")
    ] = BadLine.fail,
    pattern: Annotated[
        str | None, typer.Option(help="The split pattern; needed for a .tiktoken file alone.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="All cores by default.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Encode documents and pack them into rows; after a kill the same command goes on.

    Example: penstock pack corpus/*.jsonl.zst --tokenizer tok/ --seq-len 4096 -o packed/
    """
    from penstock.data import pack as pack_files
    from penstock.report.progress import job_callback, open_view
    from penstock.report.quantities import show_bytes, show_seconds
    from penstock.tokenizer import Tokenizer

    tok = Tokenizer.from_file(tokenizer, pattern)
    with open_view(as_json) as view:
        report = pack_files(
            files,
            tok,
            seq_len,
            out,
            seed,
            mtp_depth=mtp_depth,
            mode=mode.value,
            boundary_split=boundary_split,
            compression=compression.value,
            shard_bytes=shard_mib << 20,
            text_field=text_field,
            on_bad_line=on_bad_line.value,
            threads=threads,
            progress=job_callback(view, "pack"),
        )

    def words() -> str:
        skipped = sum(report.skipped.values())
        return (
            f"{out}: {report.rows:,} rows of {seq_len:,} tokens in {report.shards} shards; "
            f"{report.documents:,} documents, {report.tokens:,} tokens, "
            f"{show_bytes(report.text_bytes)} of text"
            + (f", {skipped:,} skipped" if skipped else "")
            + f"; {report.tasks_done} files packed, {report.tasks_reused} were done already, "
            + show_seconds(report.seconds)
        )

    emit({"path": out, **vars(report)}, as_json, words)
