"""Python's strings on their way to the encoder: long ones in parts, many while others are encoded."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest

import penstock

PROSE = "The quick brown fox — 3,141 of them — jumps over the lazy dog.\n"


@pytest.fixture(scope="module")
def tokenizer(stdlib_texts: list[str]) -> penstock.Tokenizer:
    return penstock.Tokenizer.train(stdlib_texts, vocab_size=3000)


class Loud(str):
    """A string that says otherwise."""

    def __len__(self) -> int:
        return 1 << 60

    def __getitem__(self, index: object) -> str:
        return "wrong"


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(
    "unit", [PROSE, PROSE + "\N{GRINNING FACE}", "天地玄黄,宇宙洪荒。", PROSE * 40 + "é", "x"]
)
def test_long_and_short_texts_have_the_ids_of_their_parts(
    tokenizer: penstock.Tokenizer, unit: str, threads: int
) -> None:
    long = unit * (2_200_000 // len(unit)) + "\n"
    texts = [unit, long, Loud(long), *[unit * 40 + "\n"] * 700, "", long]
    batch = tokenizer.encode_batch(texts, threads=threads)
    assert len(batch) == len(texts)
    for index in (0, 1, 2, 3, 702, 703, 704):
        text = str.__str__(texts[index])
        assert tokenizer.decode(batch[index]) == text
    np.testing.assert_array_equal(batch[1], batch[704])
    np.testing.assert_array_equal(batch[1], batch[2])
    np.testing.assert_array_equal(batch[1], tokenizer.encode_to_numpy(long))
    np.testing.assert_array_equal(batch[3], tokenizer.encode_batch([unit * 40 + "\n"])[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_added_tokens_in_a_text_read_in_parts_are_found(tokenizer: penstock.Tokenizer, threads: int) -> None:
    # Exactly so many slices; and nowhere a place to cut for some megabytes.
    text = ("é<|endoftext|>" + "a" * 1009) * 3000 + "<|endoftext|>" + "xy—" * 70_000
    text += " " * (-len(text) % 1024)
    batch = tokenizer.encode_batch(["", text, PROSE], allowed_special="all", threads=threads)
    assert tokenizer.decode(batch[1]) == text
    assert (batch.ids == tokenizer.eot_id).sum() == 3001
    np.testing.assert_array_equal(batch[2], tokenizer.encode_to_numpy(PROSE))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_lone_surrogate_is_refused_with_its_place(tokenizer: penstock.Tokenizer, threads: int) -> None:
    text = PROSE * 40_000 + "\ud800"
    with pytest.raises(UnicodeEncodeError, match=f"position {len(text) - 1}"):
        tokenizer.encode_batch([PROSE * 1000] * 50 + [text], threads=threads)
    with pytest.raises(UnicodeEncodeError, match=f"position {len(text) - 1}"):
        tokenizer.encode(text)
    with pytest.raises(UnicodeEncodeError, match="position 3"):
        tokenizer.encode("abc\ud800")
    assert tokenizer.decode(tokenizer.encode(PROSE)) == PROSE


def _encode(tokenizer: penstock.Tokenizer, texts: list[str]) -> int:
    return len(tokenizer.encode_batch(texts, threads=2).ids)


def test_a_forked_process_encodes_on_threads_too(tokenizer: penstock.Tokenizer) -> None:
    texts = [f"{PROSE * 200} {number}" for number in range(200)]
    wanted = _encode(tokenizer, texts)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool_answer = pool.apply_async(_in_child, (texts,))
        assert pool_answer.get(timeout=60) == wanted


_forked: dict[str, penstock.Tokenizer] = {}


@pytest.fixture(scope="module", autouse=True)
def _known_to_children(tokenizer: penstock.Tokenizer) -> None:
    _forked["tokenizer"] = tokenizer


def _in_child(texts: list[str]) -> int:
    return _encode(_forked["tokenizer"], texts)
