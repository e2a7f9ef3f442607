"""How sure a ratio of sums is: documents are drawn again and again, with replacement, source by source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from penstock.compare.figures import Interval

__all__ = ["Resamples", "interval"]

RESAMPLES = 1000
MAX_UNITS = 2000
"""Many documents are drawn in random groups: the ratio's spread is the same, the work bounded."""
MIN_DOCUMENTS = 5
"""Fewer say too little about the spread to be drawn from."""
PERCENT = (2.5, 97.5)
SEED = 0

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Resamples:
    """Sums of text and tokens over the same resampled documents, for all tokenizers.

    Parameters
    ----------
    sizes
        Bytes of each document.
    tokens
        Tokens of each document, a row a tokenizer.
    source
        The number of each document's source.
    """

    def __init__(self, sizes: Counts, tokens: Counts, source: Sequence[int]) -> None:
        rng = np.random.default_rng(SEED)
        self.bytes: list[Floats] = []
        self.tokens: list[Floats] = []
        """By source: RESAMPLES sums, and those of each tokenizer."""
        of = np.asarray(source)
        for number in range(int(of.max()) + 1):
            members = rng.permutation(np.flatnonzero(of == number))
            units = min(len(members), MAX_UNITS)
            grouped = np.zeros((1 + len(tokens), units))
            for row, values in zip(grouped, (sizes, *tokens), strict=True):
                np.add.at(row, np.arange(len(members)) % units, values[members])
            drawn = rng.multinomial(units, np.full(units, 1 / units), size=RESAMPLES)
            sums = grouped @ drawn.T
            self.bytes.append(sums[0])
            self.tokens.append(sums[1:])

    def all_bytes(self) -> Floats:
        """Over all sources."""
        total: Floats = np.stack(self.bytes).sum(axis=0)
        return total

    def all_tokens(self, tokenizer: int) -> Floats:
        """Over all sources, of one tokenizer."""
        total: Floats = np.stack([tokens[tokenizer] for tokens in self.tokens]).sum(axis=0)
        return total


def interval(value: float, above: Floats, below: Floats, documents: int) -> Interval:
    """``value`` with the spread of ``above / below`` over the resamples."""
    ratios = above[below > 0] / below[below > 0]
    if documents < MIN_DOCUMENTS or not ratios.size:
        return Interval(float(value))
    low, high = np.percentile(ratios, PERCENT)
    return Interval(float(value), float(low), float(high))
