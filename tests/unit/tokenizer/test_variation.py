"""Ids that vary at random: boundary tokens split in two, merges left out; how often, and the way back."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Peer

import penstock
from penstock.errors import ConfigError, TokenizerError


@pytest.fixture(scope="module")
def texts(stdlib_texts: list[str]) -> list[str]:
    return stdlib_texts[:40]


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> penstock.Tokenizer:
    return penstock.Tokenizer.train(texts, vocab_size=2000)


def joins(tokenizer: penstock.Tokenizer) -> set[int]:
    """The ids of tokens that end in line breaks with punctuation or a symbol before them."""
    found = set()
    for i in range(tokenizer.vocab_size):
        token = (tokenizer.id_to_bytes(i) or b"").decode("utf-8", "replace")
        head = token.rstrip("\r\n")
        if (
            head != token
            and head
            and not head[-1].isalnum()
            and not head[-1].isspace()
            and head[-1] != "\ufffd"
        ):
            found.add(i)
    return found


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(max_size=300)
    | st.lists(st.sampled_from([".\n", ")", "a", "\n", ":\n\n", " "])).map("".join),
    split=st.sampled_from([0.0, 0.3, 1.0]),
    dropout=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    seed=st.integers(0, 2**64 - 1),
)
def test_varied_ids_decode_to_the_text(
    tokenizer: penstock.Tokenizer, text: str, split: float, dropout: float, seed: int
) -> None:
    ids = tokenizer.encode(text, boundary_split=split, dropout=dropout, seed=seed)
    assert tokenizer.decode(ids) == text
    assert ids == tokenizer.encode(text, boundary_split=split, dropout=dropout, seed=seed)
    if dropout == 1:
        assert len(ids) == len(text.encode())


def test_the_share_of_boundary_tokens_is_split(tokenizer: penstock.Tokenizer, texts: list[str]) -> None:
    joined = joins(tokenizer)
    assert len(joined) >= 10
    plain = tokenizer.encode_batch(texts)
    total = int(np.isin(plain.ids, list(joined)).sum())
    assert total > 2000
    for share in (0.05, 0.5, 1.0):
        varied = tokenizer.encode_batch(texts, boundary_split=share, seed=3)
        left = int(np.isin(varied.ids, list(joined)).sum())
        assert abs(total - left - share * total) <= 4.5 * math.sqrt(total * share * (1 - share))
        for threads in (1, 2, 5):
            again = tokenizer.encode_batch(texts, boundary_split=share, seed=3, threads=threads)
            assert np.array_equal(again.ids, varied.ids)
            assert np.array_equal(again.offsets, varied.offsets)
        assert varied[7].tolist() == tokenizer.encode(texts[7], boundary_split=share, seed=3)
    for i in joined:
        token = tokenizer.decode([i])
        head = token.rstrip("\r\n")
        halves = tokenizer.encode(head) + tokenizer.encode(token[len(head) :])
        assert tokenizer.encode(token, boundary_split=1.0) in (halves, tokenizer.encode(token))


def test_nothing_is_split_without_such_tokens(texts: list[str]) -> None:
    gpt2 = penstock.Tokenizer.train(texts[:2], vocab_size=400, pattern="gpt2")
    with pytest.raises(TokenizerError, match="no token of this vocabulary joins"):
        gpt2.encode("a.\n", boundary_split=0.1)


@pytest.mark.parametrize("share", [-0.1, 1.5, math.nan, 1e-9])
@pytest.mark.parametrize("option", ["boundary_split", "dropout"])
def test_shares_that_are_none(tokenizer: penstock.Tokenizer, option: str, share: float) -> None:
    with pytest.raises(ConfigError, match=option):
        tokenizer.encode_batch(["a"], **{option: share})  # type: ignore[arg-type]


def test_a_seed_that_is_none(tokenizer: penstock.Tokenizer) -> None:
    with pytest.raises(ConfigError, match="seed"):
        tokenizer.encode("a", dropout=0.5, seed=-1)


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_dropout_is_distributed_as_in_hf(
    tokenizer: penstock.Tokenizer, texts: list[str], dropout: float
) -> None:
    file = json.loads(tokenizer.to_json())
    file["model"]["dropout"] = dropout
    peer = Peer.from_str(json.dumps(file))
    text = "".join(texts)[10_000:14_000]
    draws = 400
    ours = histograms(tokenizer.encode_batch([text], dropout=dropout, seed=i).ids for i in range(draws))
    theirs = histograms(np.array(peer.encode(text, add_special_tokens=False).ids) for _ in range(draws))
    # HF draws anew each time: bounds of six standard errors fail once in half a billion comparisons.
    for counts in (lambda h: h.sum(axis=1, keepdims=True), lambda h: h[:, ours.mean(axis=0) > 5]):
        a, b = counts(ours), counts(theirs)
        error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / draws) + 1e-9
        assert np.abs(a.mean(axis=0) - b.mean(axis=0)).max() > 0
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) / error).max() < 6


def histograms(encodings: object) -> np.ndarray:
    """How often each id occurs in each of several encodings."""
    return np.stack([np.bincount(ids, minlength=2000) for ids in encodings]).astype(float)  # type: ignore[attr-defined]


def test_the_choice_is_that_of_the_specification(tokenizer: penstock.Tokenizer, texts: list[str]) -> None:
    """docs/format.md, section 8, written down again."""
    xxhash = pytest.importorskip("xxhash")
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
        return z ^ (z >> 31)

    joined = joins(tokenizer)
    for seed, text in ((0, texts[0]), (2**64 - 1, texts[1])):
        key = mix(mix((seed + golden) & mask) ^ xxhash.xxh3_64_intdigest(text.encode()))
        expected: list[int] = []
        for i, token in enumerate(tokenizer.encode(text)):
            is_drawn = mix((key + golden * (i + 1)) & mask) * 10**6 >> 64 < 300_000
            if token in joined and is_drawn:
                whole = tokenizer.decode([token])
                head = whole.rstrip("\r\n")
                expected += tokenizer.encode(head) + tokenizer.encode(whole[len(head) :])
            else:
                expected.append(token)
        assert tokenizer.encode(text, boundary_split=0.3, seed=seed) == expected
