"""A bigram model over the same tokens: the bar that a trained model has to clear.

Absolute discounting, interpolated: every count gives up a discount, and what a context gave up goes to a
unigram model, which in turn gives up a discount to the uniform distribution. Both discounts are chosen on
training documents that were set aside; then all of them are counted.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ConfigError, DataError
from penstock.evaluate.bits_per_byte import BitsPerByte, ScoredDocument

__all__ = ["Bigram", "bigram_bits_per_byte", "fit_bigram"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TUNING_SHARE = 20
"""Every so many training documents, one is set aside to choose the discounts on."""
DISCOUNTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
CHUNK_TOKENS = 1 << 22
"""Tokens whose pairs are sorted at once."""


@dataclass(frozen=True)
class Bigram:
    """Counts of pairs and of tokens. A pair is one number, ``context * vocab_size + token``."""

    vocab_size: int
    pairs: Ints
    """Distinct pairs, sorted."""
    pair_counts: Ints
    context_counts: Ints
    """[vocab_size + 1]: how often each token was a context; the last is the start of a document."""
    context_types: Ints
    """[vocab_size + 1]: how many distinct tokens followed it."""
    token_counts: Ints
    """[vocab_size]"""
    discounts: tuple[float, float] = (0.75, 0.75)
    """Of a pair's count, and of a token's."""

    def probabilities(self, contexts: Ints, tokens: Ints) -> Floats:
        """P(token | context) of each pair, float64."""
        of_pair, of_token = self.discounts
        seen = self._counts_of(contexts, tokens)
        total = self.context_counts[contexts]
        kept = np.maximum(seen - of_pair, 0.0)
        given_up = of_pair * self.context_types[contexts]
        lower = self._unigram(tokens, of_token)
        return np.where(total > 0, (kept + given_up * lower) / np.maximum(total, 1), lower)

    def _counts_of(self, contexts: Ints, tokens: Ints) -> Ints:
        wanted = contexts * self.vocab_size + tokens
        if not len(self.pairs):
            return np.zeros(len(wanted), np.int64)
        place = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
        return np.where(self.pairs[place] == wanted, self.pair_counts[place], 0)

    def _unigram(self, tokens: Ints, discount: float) -> Floats:
        total = int(self.token_counts.sum())
        kept = np.maximum(self.token_counts[tokens] - discount, 0.0)
        given_up = discount * int(np.count_nonzero(self.token_counts))
        uniform = 1.0 / self.vocab_size
        return (kept + given_up * uniform) / total if total else np.full(len(tokens), uniform)


def bigram_bits_per_byte(
    train: Iterable[Sequence[int] | NDArray[Any]],
    heldout: Iterable[ScoredDocument],
    vocab_size: int,
    eot_id: int | None = None,
) -> BitsPerByte:
    """Fit a bigram model on training documents and score held-out ones.

    Parameters
    ----------
    train
        Token ids, one sequence a document, without padding; read once.
    heldout
        As ``encode_documents`` yields them, so that model and bigram score the same tokens.
    vocab_size
        Ids lie below it.
    eot_id
        Context of a document's first token; None: a context of its own, the start of a document.

    Returns
    -------
    BitsPerByte
        The sums over all held-out documents.

    Raises
    ------
    DataError
        An id is outside the vocabulary, or one of the two has no tokens.
    """
    model = fit_bigram(train, vocab_size, eot_id)
    nats, total_bytes, tokens, count = 0.0, 0, 0, 0
    for document in heldout:
        contexts, targets = _pairs_of(document.ids, vocab_size, eot_id)
        nats -= float(np.log(model.probabilities(contexts, targets)).sum())
        total_bytes += document.bytes
        tokens += len(targets)
        count += 1
    if not total_bytes:
        raise DataError("there is no held-out text to score: every document is empty")
    return BitsPerByte(nats / math.log(2), total_bytes, tokens, count)


def fit_bigram(
    train: Iterable[Sequence[int] | NDArray[Any]], vocab_size: int, eot_id: int | None = None
) -> Bigram:
    """Count training documents and choose the discounts on a part of them."""
    if vocab_size < 1:
        raise ConfigError(f"vocab_size={vocab_size} must be at least 1")
    counted, tuning = _PairCounter(vocab_size), _PairCounter(vocab_size)
    for number, ids in enumerate(train):
        into = tuning if number % TUNING_SHARE == TUNING_SHARE - 1 else counted
        into.add(*_pairs_of(ids, vocab_size, eot_id))
    partial, aside = counted.finish(), tuning.finish()
    if not len(partial[0]):
        raise DataError("a bigram model needs training tokens, and there are none")
    discounts = _best_discounts(_bigram(*partial, vocab_size), *aside)
    counted.add_counts(*aside)
    return _bigram(*counted.finish(), vocab_size, discounts)


def _best_discounts(model: Bigram, pairs: Ints, counts: Ints) -> tuple[float, float]:
    """The pair of discounts under which the pairs set aside are likeliest."""
    if not len(pairs):
        return model.discounts
    contexts, tokens = np.divmod(pairs, model.vocab_size)

    def nats(discounts: tuple[float, float]) -> float:
        candidate = dataclasses.replace(model, discounts=discounts)
        return -float(counts @ np.log(candidate.probabilities(contexts, tokens)))

    return min(itertools.product(DISCOUNTS, DISCOUNTS), key=nats)


class _PairCounter:
    """Distinct pairs and their counts, merged a chunk at a time: memory follows the distinct pairs."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._pending: list[Ints] = []
        self._pending_tokens = 0
        self._pairs = np.empty(0, np.int64)
        self._counts = np.empty(0, np.int64)

    def add(self, contexts: Ints, tokens: Ints) -> None:
        self._pending.append(contexts * self._vocab_size + tokens)
        self._pending_tokens += len(tokens)
        if self._pending_tokens >= CHUNK_TOKENS:
            self.finish()

    def add_counts(self, pairs: Ints, counts: Ints) -> None:
        merged, place = np.unique(np.concatenate([self._pairs, pairs]), return_inverse=True)
        sums = np.zeros(len(merged), np.int64)
        np.add.at(sums, place, np.concatenate([self._counts, counts]))
        self._pairs, self._counts = merged, sums

    def finish(self) -> tuple[Ints, Ints]:
        if self._pending:
            self.add_counts(*np.unique(np.concatenate(self._pending), return_counts=True))
        self._pending, self._pending_tokens = [], 0
        return self._pairs, self._counts


def _bigram(
    pairs: Ints, counts: Ints, vocab_size: int, discounts: tuple[float, float] = (0.75, 0.75)
) -> Bigram:
    contexts, tokens = np.divmod(pairs, vocab_size)
    context_counts = np.zeros(vocab_size + 1, np.int64)
    context_types = np.zeros(vocab_size + 1, np.int64)
    token_counts = np.zeros(vocab_size, np.int64)
    np.add.at(context_counts, contexts, counts)
    np.add.at(context_types, contexts, 1)
    np.add.at(token_counts, tokens, counts)
    return Bigram(vocab_size, pairs, counts, context_counts, context_types, token_counts, discounts)


def _pairs_of(ids: Sequence[int] | NDArray[Any], vocab_size: int, eot_id: int | None) -> tuple[Ints, Ints]:
    """Contexts and tokens of a document."""
    tokens = np.asarray(ids, np.int64)
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        raise DataError(f"token ids {tokens.min()} to {tokens.max()} do not fit a vocabulary of {vocab_size}")
    start = vocab_size if eot_id is None else eot_id
    return np.concatenate([[start], tokens])[:-1].astype(np.int64), tokens
