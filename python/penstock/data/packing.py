"""From documents to packed rows on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from penstock import _core
from penstock.errors import InputError, numbers_in_range
from penstock.jobs import ProgressCallback, run_job
from penstock.tokenizer import Tokenizer

__all__ = ["PackReport", "SourceCounts", "pack"]

MIB = 1 << 20


@dataclass(frozen=True)
class SourceCounts:
    """What one source label gave."""

    documents: int
    text_bytes: int
    tokens: int


@dataclass(frozen=True)
class PackReport:
    """What a packed dataset holds and how this call came by it. Read = packed + skipped."""

    documents: int
    skipped: Mapping[str, int]
    """Documents not packed, by reason."""
    tokens: int
    """Of the documents, end-of-text tokens included."""
    text_bytes: int
    rows: int
    pad_tokens: int
    """Input positions that hold no document."""
    cut_documents: int
    """Documents that lie in more than one row."""
    shards: int
    tasks_done: int
    """Tasks that this call did."""
    tasks_reused: int
    """Tasks that were complete already."""
    seconds: float
    by_source: Mapping[str, SourceCounts]


def pack(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    tokenizer: Tokenizer,
    seq_len: int = 4096,
    out: str | os.PathLike[str] = "packed",
    seed: int = 0,
    *,
    mtp_depth: int = 1,
    mode: Literal["best_fit", "concatenate"] = "best_fit",
    boundary_split: float = 0.0,
    compression: Literal["none", "lz4", "zstd"] = "none",
    shard_bytes: int = 128 * MIB,
    text_field: str = "text",
    on_bad_line: Literal["fail", "skip"] = "fail",
    max_line_bytes: int = 256 * MIB,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> PackReport:
    """Pack documents into rows of ``seq_len`` tokens and write them as Arrow shards (docs/format.md).

    The same inputs give the same bytes on any number of threads. After a kill, the same call goes on:
    what is complete is kept.

    Parameters
    ----------
    paths
        Files: .jsonl, .txt, .parquet or .arrow, plain, .gz or .zst. Each is one task.
    tokenizer
        Encodes the documents; each ends with its end-of-text token, if it has one.
    seq_len
        Input positions a row; ``1 + mtp_depth`` further tokens are stored as targets.
    out
        The folder to write.
    seed
        Of what is decided by chance: the order of documents in a row, and which tokens are split.
    mode
        best_fit cuts only documents longer than a row; concatenate cuts wherever a row ends.
    boundary_split
        The share of the tokens that join punctuation and line breaks that are split in two, against token
        boundary bias (DeepSeek-V3 report, section 4.1).
    on_bad_line
        fail, or skip and count by reason.

    Raises
    ------
    InputError
        A file cannot be read as text, in which case the message names file, line and byte; or no file
        holds any.
    ConfigError
        A number is out of range.
    TokenizerError
        Tokens are to be split, and none of the vocabulary joins punctuation and line breaks.
    DataError
        ``out`` holds something else: other parameters, another tokenizer, other inputs.
    """
    files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    with numbers_in_range():
        job = _core.pack(
            [os.fspath(p) for p in files],
            tokenizer._core,
            os.fspath(out),
            seq_len,
            mtp_depth,
            mode,
            seed,
            boundary_split,
            compression,
            shard_bytes,
            threads,
            text_field,
            on_bad_line,
            max_line_bytes,
        )
    report = _report(json.loads(run_job(job, progress)))
    if not report.rows:
        raise InputError(
            f"{', '.join(str(f) for f in files)}: the corpus is empty: no document holds text "
            f"({sum(report.skipped.values())} skipped). {out} has no row: delete it, and pack other files"
        )
    return report


def _report(values: dict[str, object]) -> PackReport:
    by_source = values.pop("by_source")
    assert isinstance(by_source, dict)
    kept = {f.name: values[f.name] for f in fields(PackReport) if f.name != "by_source"}
    return PackReport(by_source={k: SourceCounts(**v) for k, v in by_source.items()}, **kept)  # type: ignore[arg-type]
