"""The bigram bar against counting by hand, and that it is a probability and a good one."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from penstock.errors import DataError
from penstock.evaluate import bigram as module
from penstock.evaluate.bigram import Bigram, bigram_bits_per_byte, fit_bigram
from penstock.evaluate.bits_per_byte import ScoredDocument

VOCAB_SIZE, EOT = 11, 10


def markov_documents(count: int, seed: int) -> list[list[int]]:
    """Documents of a chain with a few likely successors a token; token 9 is never seen."""
    chance = np.random.default_rng(seed)
    matrix = np.random.default_rng(0).dirichlet(np.full(9, 0.3), size=9)
    documents = []
    for _ in range(count):
        ids = [int(chance.integers(9))]
        for _ in range(int(chance.integers(0, 40))):
            ids.append(int(chance.choice(9, p=matrix[ids[-1]])))
        documents.append(ids)
    return documents


def brute_force(documents: list[list[int]], discounts: tuple[float, float], eot_id: int | None) -> object:
    """P(token | context) from dictionaries."""
    pairs: Counter[tuple[int | None, int]] = Counter()
    for ids in documents:
        pairs.update(zip([eot_id, *ids], ids, strict=False))
    tokens: Counter[int] = Counter()
    for (_, token), count in pairs.items():
        tokens[token] += count

    def unigram(token: int) -> float:
        kept = max(tokens[token] - discounts[1], 0)
        return (kept + discounts[1] * len(tokens) / VOCAB_SIZE) / tokens.total()

    def probability(context: int | None, token: int) -> float:
        seen = {w: n for (u, w), n in pairs.items() if u == context}
        if not seen:
            return unigram(token)
        kept = max(seen.get(token, 0) - discounts[0], 0)
        return (kept + discounts[0] * len(seen) * unigram(token)) / sum(seen.values())

    return probability


@pytest.mark.parametrize("eot_id", [EOT, None])
def test_equals_brute_force(eot_id: int | None) -> None:
    documents, heldout = markov_documents(60, 1), [*markov_documents(5, 2), [9, 9, 3], [EOT]]
    model = fit_bigram(documents, VOCAB_SIZE, eot_id)
    probability = brute_force(documents, model.discounts, eot_id)
    nats = -sum(
        math.log(probability(context, token))  # type: ignore[operator]
        for ids in heldout
        for context, token in zip([eot_id, *ids], ids, strict=False)
    )
    scored = [ScoredDocument(ids, 3 * len(ids)) for ids in heldout]
    found = bigram_bits_per_byte(documents, scored, VOCAB_SIZE, eot_id)
    tokens = sum(map(len, heldout))
    assert (found.tokens, found.bytes, found.documents) == (tokens, 3 * tokens, len(heldout))
    assert found.bits == pytest.approx(nats / math.log(2), rel=1e-12)


@pytest.mark.parametrize("eot_id", [EOT, None])
def test_probabilities_of_every_context_sum_to_one(eot_id: int | None) -> None:
    model = fit_bigram(markov_documents(50, 3), VOCAB_SIZE, eot_id)
    tokens = np.arange(VOCAB_SIZE)
    for context in range(VOCAB_SIZE + 1):
        p = model.probabilities(np.full(VOCAB_SIZE, context), tokens)
        assert p.min() > 0
        assert p.sum() == pytest.approx(1.0, abs=1e-12)


def test_the_discounts_are_the_best_on_the_part_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = markov_documents(80, 4)
    model = fit_bigram(documents, VOCAB_SIZE, EOT)
    aside = documents[module.TUNING_SHARE - 1 :: module.TUNING_SHARE]
    rest = [ids for ids in documents if not any(ids is other for other in aside)]

    def nats(discounts: tuple[float, float]) -> float:
        probability = brute_force(rest, discounts, EOT)
        return -sum(
            math.log(probability(u, w))  # type: ignore[operator]
            for ids in aside
            for u, w in zip([EOT, *ids], ids, strict=False)
        )

    grid = [(a, b) for a in module.DISCOUNTS for b in module.DISCOUNTS]
    assert nats(model.discounts) == pytest.approx(min(map(nats, grid)), rel=1e-12)


def test_it_comes_near_the_chain_that_made_the_text() -> None:
    matrix = np.random.default_rng(0).dirichlet(np.full(9, 0.3), size=9)
    heldout = [ids for ids in markov_documents(300, 6) if len(ids) > 1]
    true_bits = -sum(math.log2(matrix[u, w]) for ids in heldout for u, w in itertools.pairwise(ids))
    true_bits += len(heldout) * math.log2(9)
    scored = [ScoredDocument(ids, len(ids)) for ids in heldout]
    found = bigram_bits_per_byte(markov_documents(3000, 5), scored, VOCAB_SIZE, EOT)
    assert true_bits * 0.99 < found.bits < true_bits * 1.02


def test_counting_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = markov_documents(100, 7)
    whole = fit_bigram(documents, VOCAB_SIZE, EOT)
    monkeypatch.setattr(module, "CHUNK_TOKENS", 50)
    chunked = fit_bigram((np.array(ids, np.uint32) for ids in documents), VOCAB_SIZE, EOT)
    assert isinstance(chunked, Bigram)
    assert chunked.discounts == whole.discounts
    for name in ("pairs", "pair_counts", "context_counts", "context_types", "token_counts"):
        np.testing.assert_array_equal(getattr(chunked, name), getattr(whole, name))


def test_what_makes_no_model_is_refused() -> None:
    with pytest.raises(DataError, match="do not fit a vocabulary of 11"):
        fit_bigram([[1, 11]], VOCAB_SIZE)
    with pytest.raises(DataError, match="needs training tokens"):
        fit_bigram([[]], VOCAB_SIZE)
    with pytest.raises(DataError, match="no held-out text"):
        bigram_bits_per_byte([[1, 2]], [], VOCAB_SIZE)
