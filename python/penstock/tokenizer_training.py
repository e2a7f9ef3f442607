"""What the tokenizer's trainer is asked for and what it reports. ``Tokenizer.train`` is its face."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from penstock import _core
from penstock.errors import ConfigError

__all__ = [
    "Sampling",
    "TrainingReport",
    "TrainingRequest",
    "as_paths",
    "checked_weights",
    "count_texts",
    "memory_bytes",
]

BATCH_DOCUMENTS = 1024
MEMORY_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@dataclass(frozen=True)
class TrainingRequest:
    """What the extension reads; every field is an argument of ``Tokenizer.train``."""

    vocab_size: int
    pattern: str
    special_tokens: list[str]
    min_frequency: int = 0
    max_token_bytes: int | None = None
    threads: int | None = None
    max_memory: int | None = None
    spill_folder: str | None = None
    weights: dict[str, int] = field(default_factory=dict)
    max_bytes: int = 0
    extend: _core.Tokenizer | None = None
    counts: list[str] = field(default_factory=list)
    save_counts: str | None = None
    word_share: float | None = None

    def __post_init__(self) -> None:
        numbers = ("vocab_size", "min_frequency", "max_token_bytes", "threads", "max_memory", "max_bytes")
        for name in numbers:
            value = getattr(self, name)
            if value is not None and not 0 <= value < 2**63:
                raise ConfigError(
                    f"argument '{name}': expected a whole number from 0 to 2**63 - 1, not {value}"
                )
        if self.word_share is not None and (self.counts or self.save_counts or self.extend):
            raise ConfigError("superbpe counts words and lines: leave out counts, save_counts and extend")


@dataclass(frozen=True)
class Sampling:
    """The sample that stood for more distinct pieces than fitted memory.

    A piece seen ``c`` times, fewer than ``counts_below``, was kept with probability ``c / counts_below`` by
    a hash of its bytes, and then counted ``counts_below`` times; so no count is biased.
    """

    counts_below: int
    kept_pieces: int
    kept_bytes: int
    standard_error: float
    """At most, of the count of the last merge."""


@dataclass(frozen=True)
class TrainingReport:
    """How a vocabulary came about."""

    pieces: int
    """Pieces of text, with repetitions."""
    distinct_pieces: int
    distinct_bytes: int
    spilled_bytes: int
    """Written to the spill folder, and gone from there."""
    sampling: Sampling | None
    """None when every distinct piece was trained on."""
    merges: int
    last_count: int
    """How often the pair of the last merge stood."""

    @classmethod
    def from_json(cls, text: str) -> TrainingReport:
        """The report that the extension wrote; a sample is also told by a warning."""
        facts: dict[str, Any] = json.loads(text)
        sampling = Sampling(**facts.pop("sampling")) if facts["sampling"] else facts.pop("sampling")
        report = cls(sampling=sampling, **facts)
        if report.sampling is not None:
            warnings.warn(report.sampling_words(), stacklevel=4)
        return report

    def sampling_words(self) -> str:
        """What was sampled, in a sentence; empty if nothing was."""
        sample = self.sampling
        if sample is None:
            return ""
        return (
            f"memory holds {sample.kept_pieces:,} of {self.distinct_pieces:,} distinct pieces "
            f"({sample.kept_bytes / 1e6:,.1f} of {self.distinct_bytes / 1e6:,.1f} MB): those seen fewer than "
            f"{sample.counts_below:,} times were sampled, so the last merge's count of {self.last_count:,} "
            f"has a standard error of up to {sample.standard_error:,.0f}; a larger max_memory samples less"
        )


def memory_bytes(value: int | str | None) -> int | None:
    """Bytes of ``2000000000``, ``"2G"`` or ``"1.5GiB"``."""
    if value is None or isinstance(value, int):
        return value
    words = value.strip().upper().removesuffix("B")
    number = words.rstrip("KMGI")
    try:
        return int(float(number) * MEMORY_UNITS[words[len(number) :]])
    except (KeyError, ValueError, OverflowError):
        raise ConfigError(
            f"max_memory {value!r}: expected bytes, or a number with K, M, G, KiB, MiB or GiB"
        ) from None


def checked_weights(weights: Mapping[str, int] | None, *, have_sources: bool) -> dict[str, int]:
    """Whole weights by source; texts without files have no sources."""
    if not weights:
        return {}
    if not have_sources:
        raise ConfigError("weights are by the source field of files; texts have none")
    for source, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int) or weight < 0:
            raise ConfigError(f"weight of {source!r}: expected a whole number from 0, not {weight!r}")
    return dict(weights)


def as_paths(corpus: object) -> list[str] | None:
    """The files that ``corpus`` names, or None when it holds texts."""
    if isinstance(corpus, str | os.PathLike):
        return [os.fspath(corpus)]
    if not isinstance(corpus, Sequence) or not isinstance(corpus, list | tuple) or not corpus:
        return None
    first = corpus[0]
    named = isinstance(first, os.PathLike) or (isinstance(first, str) and _looks_like_file(first))
    return [os.fspath(p) for p in corpus] if named else None


def _looks_like_file(text: str) -> bool:
    if len(text) > 4096 or "\n" in text:
        return False
    known = (".jsonl", ".json", ".txt", ".parquet", ".arrow", ".gz", ".zst")
    try:
        return text.endswith(known) or Path(text).is_file()
    except OSError:  # longer than the name of any file
        return False


def count_texts(texts: Iterable[str], request: TrainingRequest) -> _core.WordCounts:
    """Count the pieces of an iterable of texts, in batches, so that the iterable is never held whole."""
    counts = _core.WordCounts(request)
    source = iter(texts)
    while batch := list(islice(source, BATCH_DOCUMENTS)):
        if not counts.add(batch):
            break
    return counts
