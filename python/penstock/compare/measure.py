"""One pass over a corpus with all tokenizers in turns: a slow minute of the machine meets them all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock.compare import bootstrap, probes
from penstock.compare.figures import Comparison, Interval, SourceSize, TokenizerFigures
from penstock.compare.subjects import Subject, distinct
from penstock.compare.vocabulary import vocabulary_use
from penstock.errors import ConfigError, InputError

__all__ = ["compare_tokenizers"]

TURN_BYTES = 1 << 20
"""Text that each tokenizer encodes before the next has its turn."""

MAX_SOURCES = 60
"""A folder of ten thousand files is no table."""

Labelled = tuple[str, str]


@dataclass
class _Tally:
    """What one tokenizer has made of the documents so far."""

    subject: Subject
    counts: NDArray[np.int64]
    tokens: list[NDArray[np.int64]] = field(default_factory=list)
    seconds: float = 0.0

    def encode(self, texts: list[str], threads: int) -> None:
        began = time.perf_counter()
        batch = self.subject.tokenizer.encode_batch(texts, threads=threads)
        self.seconds += time.perf_counter() - began
        self.tokens.append(np.diff(batch.offsets))
        self.counts += np.bincount(batch.ids, minlength=len(self.counts))


def compare_tokenizers(
    subjects: Sequence[Subject],
    documents: Iterable[Labelled],
    *,
    threads: int = 1,
    max_bytes: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Encode the documents with every tokenizer.

    Parameters
    ----------
    subjects
        The first is what the others' numbers of tokens are compared with.
    documents
        Pairs of a source label and a text.
    threads
        For the speeds; 1 compares the vocabularies rather than the machine.
    max_bytes
        Stop before the document that would go beyond this; 0 reads all.
    progress
        Called with the bytes done so far.

    Raises
    ------
    ConfigError
        There is no tokenizer.
    InputError
        The documents hold no text, or something that is none.
    """
    if not subjects:
        raise ConfigError("no tokenizer to compare")
    if threads < 1 or max_bytes < 0:
        raise ConfigError(f"threads={threads}, max_bytes={max_bytes}: expected at least 1 and at least 0")
    tallies = [_Tally(s, np.zeros(s.tokenizer.vocab_size, np.int64)) for s in distinct(subjects)]
    labels: list[str] = []
    sizes: list[int] = []
    reader = _Reader(documents, max_bytes)
    for number, turn in enumerate(reader.turns()):
        texts = [text for _, text, _ in turn]
        for i in range(len(tallies)):
            tallies[(number + i) % len(tallies)].encode(texts, threads)
        labels += [label for label, _, _ in turn]
        sizes += [size for _, _, size in turn]
        if progress is not None:
            progress(reader.bytes)
    if not sizes:
        raise InputError("the corpus holds no text")
    sources, members = _by_size(labels, sizes)
    figures = _figures(tallies, np.asarray(sizes, np.int64), members, [source.name for source in sources])
    return Comparison(
        sources=tuple(sources), tokenizers=tuple(figures), threads=threads, truncated=reader.truncated
    )


class _Reader:
    """Documents in stretches of about ``TURN_BYTES``, up to a limit; empty ones are left out."""

    def __init__(self, documents: Iterable[Labelled], max_bytes: int) -> None:
        self._documents = documents
        self._max_bytes = max_bytes
        self.bytes = 0
        self.truncated = False

    def turns(self) -> Iterator[list[tuple[str, str, int]]]:
        """Label, text and bytes of each document of a stretch."""
        turn: list[tuple[str, str, int]] = []
        held = 0
        for number, (label, text) in enumerate(self._documents, 1):
            label = label.encode("utf-8", "replace").decode()
            try:
                size = len(text.encode())
            except UnicodeEncodeError as error:
                raise InputError(
                    f"document {number}, of source {label!r}: half of a surrogate pair at character "
                    f"{error.start}"
                ) from error
            if self._max_bytes and self.bytes and self.bytes + size > self._max_bytes:
                self.truncated = True
                break
            if size:
                turn.append((label, text, size))
            held += size
            self.bytes += size
            if held >= TURN_BYTES:
                yield turn
                turn, held = [], 0
        if turn:
            yield turn


def _by_size(labels: list[str], sizes: list[int]) -> tuple[list[SourceSize], NDArray[np.int64]]:
    """The sources, the largest first, and the place there of each document's; small ones share the last."""
    total: Counter[str] = Counter()
    for label, size in zip(labels, sizes, strict=True):
        total[label] += size
    kept = [label for label, _ in total.most_common(MAX_SOURCES)]
    places = {label: i for i, label in enumerate(kept)}
    members = np.asarray([places.get(label, len(kept)) for label in labels], np.int64)
    names = [*kept, *([f"{len(total) - len(kept)} smaller sources"] if len(total) > len(kept) else [])]
    lengths = np.asarray(sizes, np.int64)
    sources = [
        SourceSize(name, int(np.count_nonzero(members == i)), int(lengths[members == i].sum()))
        for i, name in enumerate(names)
    ]
    return sources, members


def _figures(
    tallies: Sequence[_Tally], sizes: NDArray[np.int64], source: NDArray[np.int64], names: Sequence[str]
) -> Iterator[TokenizerFigures]:
    tokens = np.stack([np.concatenate(tally.tokens) for tally in tallies])
    drawn = bootstrap.Resamples(sizes, tokens, source.tolist())
    for i, (tally, own) in enumerate(zip(tallies, tokens, strict=True)):
        tokenizer = tally.subject.tokenizer
        overall = bootstrap.interval(
            sizes.sum() / own.sum(), drawn.all_bytes(), drawn.all_tokens(i), len(sizes)
        )
        by_source = {}
        for k, name in enumerate(names):
            here = source == k
            ratio = sizes[here].sum() / own[here].sum()
            by_source[name] = bootstrap.interval(
                ratio, drawn.bytes[k], drawn.tokens[k][i], int(np.count_nonzero(here))
            )
        against_first = bootstrap.interval(
            own.sum() / tokens[0].sum(), drawn.all_tokens(i), drawn.all_tokens(0), len(sizes)
        )
        yield TokenizerFigures(
            name=tally.subject.name,
            path=tally.subject.path,
            pattern=tokenizer.pattern,
            sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            tokens=int(own.sum()),
            bytes_per_token=overall,
            by_source=by_source,
            tokens_against_first=against_first if i else Interval(1.0),
            seconds=tally.seconds,
            vocabulary=vocabulary_use(tokenizer, tally.counts),
            number_tokens=probes.number_tokens(tokenizer),
            number_view=tokenizer.show(probes.NUMBERS),
            indent_tokens=probes.indent_tokens(tokenizer),
            code_view=tokenizer.show(probes.CODE),
        )
