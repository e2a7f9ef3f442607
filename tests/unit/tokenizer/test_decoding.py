"""Ids back to text: whole, in batches and as streams, beside HF and tiktoken."""

from __future__ import annotations

import itertools
import pickle
import random
import sys
from array import array
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Peer
from tokenizers.decoders import DecodeStream

import penstock
from penstock import ConfigError, DecodeError, Tokenizer, TokenizerError
from penstock.decoding import Errors

JSON_FILES = ["gpt-2", "deepseek-llm", "llama3", "qwen2"]
RANK_FILES = {"cl100k_base": "cl100k", "llama3": "llama3", "qwen": "qwen2"}
POLICIES: list[Errors] = ["replace", "ignore"]
TEXT = "naïve café\n\t汉字かな한국어 🏳️‍🌈👩‍👩‍👧 \u202eABC\x00 123456 ½ ﷽"


@pytest.fixture(scope="module")
def tokenizer(stdlib_texts: list[str]) -> Tokenizer:
    return Tokenizer.train(stdlib_texts[:40], vocab_size=600)


def ids_of(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """One id a byte, so that any bytes can be asked for."""
    return [i for b in data if (i := tokenizer.token_to_id(bytes([b]))) is not None]


def cut(ids: list[int], cuts: list[int]) -> list[list[int]]:
    edges = [0, *sorted(c % (len(ids) + 1) for c in cuts), len(ids)]
    return [ids[a:b] for a, b in itertools.pairwise(edges)]


@settings(max_examples=400, deadline=None)
@given(
    ids=st.lists(st.integers(0, 599), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=8),
    errors=st.sampled_from(["replace", "ignore", "strict"]),
)
def test_a_stream_joined_is_the_whole(
    tokenizer: Tokenizer, ids: list[int], cuts: list[int], errors: Errors
) -> None:
    for chunks in (cut(ids, cuts), ids):
        streamed: Any = None
        try:
            streamed = "".join(tokenizer.stream_decoder(errors).iterate(chunks))
        except DecodeError as error:
            streamed = (error.token_index, error.byte_offset)
        raw = tokenizer.decode_bytes(ids)
        try:
            assert streamed == raw.decode("utf-8", errors) == tokenizer.decode(ids, errors)
        except UnicodeDecodeError as error:
            ends = np.cumsum([len(tokenizer.id_to_bytes(i) or b"") for i in ids])
            place = (int(np.searchsorted(ends, error.start, side="right")), error.start)
            assert streamed == place
            with pytest.raises(DecodeError) as raised:
                tokenizer.decode(ids, errors)
            assert (raised.value.token_index, raised.value.byte_offset) == place


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=48), errors=st.sampled_from(POLICIES))
def test_no_piece_of_a_stream_holds_half_a_character(
    tokenizer: Tokenizer, data: bytes, errors: Errors
) -> None:
    decoder = tokenizer.stream_decoder(errors)
    pieces = [decoder.push(i) for i in ids_of(tokenizer, data)]
    assert "".join([*pieces, decoder.finish()]) == data.decode("utf-8", errors)
    for piece in pieces:
        piece.encode("utf-8")


@pytest.mark.parametrize("name", JSON_FILES)
def test_the_stream_of_hf_gives_the_same_text(shared: Path, name: str) -> None:
    ours, peer = foreign(shared, name)
    text = TEXT if name != "qwen2" else TEXT.replace("ï", "i").replace("é", "e")
    ids = peer.encode(text, add_special_tokens=False).ids
    stream, decoder = DecodeStream(skip_special_tokens=False), ours.stream_decoder()
    theirs = "".join(stream.step(peer, i) or "" for i in ids)
    assert "".join(map(decoder.push, ids)) + decoder.finish() == theirs == text


@pytest.mark.parametrize("name", JSON_FILES)
def test_arbitrary_ids_decode_as_in_hf(shared: Path, name: str) -> None:
    ours, peer = foreign(shared, name)
    rng = random.Random(name)
    for _ in range(200):
        ids = [rng.randrange(ours.vocab_size) for _ in range(rng.randrange(30))]
        theirs = peer.decode(ids, skip_special_tokens=False)
        assert ours.decode(ids) == theirs
        assert "".join(ours.stream_decoder().iterate(ids)) == theirs


@pytest.mark.parametrize("name", RANK_FILES)
def test_arbitrary_ids_decode_as_in_tiktoken(shared: Path, name: str) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import load_tiktoken_bpe

    path = shared / f"eval/tokenizer/vocab/{name}.tiktoken"
    ours = Tokenizer.from_file(path, pattern=RANK_FILES[name])
    ranks = load_tiktoken_bpe(str(path))
    peer = tiktoken.Encoding(name, pat_str=".+", mergeable_ranks=ranks, special_tokens=ours.special_tokens)
    rng = random.Random(name)
    batch = [[rng.randrange(len(ranks)) for _ in range(rng.randrange(30))] for _ in range(200)]
    batch.append(list(ours.special_tokens.values()))
    assert [ours.decode_bytes(ids) for ids in batch] == [peer.decode_bytes(ids) for ids in batch]
    for errors in POLICIES:
        theirs = peer.decode_batch(batch, errors=errors)
        assert ours.decode_batch(batch, errors) == theirs
        assert ["".join(ours.stream_decoder(errors).iterate([ids])) for ids in batch] == theirs


@cache
def foreign(shared: Path, name: str) -> tuple[Tokenizer, Peer]:
    path = shared / f"eval/tokenizer/vocab/{name}.tokenizer.json"
    return Tokenizer.from_file(path), Peer.from_file(str(path))


def test_a_strict_error_names_the_token_and_the_byte(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("fine "), *ids_of(tokenizer, b"\xf0\x9f")]
    with pytest.raises(DecodeError, match=r"not UTF-8 at byte 5, in token") as raised:
        tokenizer.decode(ids, "strict")
    assert (raised.value.token_index, raised.value.byte_offset) == (len(ids) - 2, 5)
    assert isinstance(raised.value, TokenizerError)
    again = pickle.loads(pickle.dumps(raised.value))
    assert (str(again), again.byte_offset) == (str(raised.value), 5)
    with pytest.raises(DecodeError, match="text 1: not UTF-8 at byte 5"):
        tokenizer.decode_batch([[], ids], "strict")


def test_a_strict_stream_is_as_it_was_before_the_error(tokenizer: Tokenizer) -> None:
    decoder = tokenizer.stream_decoder("strict")
    first, second, wrong = ids_of(tokenizer, "é".encode() + b"\xff")
    assert decoder.push(first) == ""
    with pytest.raises(DecodeError) as raised:
        decoder.push([wrong])
    assert (raised.value.token_index, raised.value.byte_offset) == (0, 0)
    assert decoder.push(second) == "é"
    with pytest.raises(DecodeError) as raised:
        decoder.push([first, second, wrong])
    assert (raised.value.token_index, raised.value.byte_offset) == (4, 4)
    decoder.push(first)
    with pytest.raises(DecodeError, match="unexpected end") as raised:
        decoder.finish()
    assert (raised.value.token_index, raised.value.byte_offset) == (2, 2)


def test_a_stream_ends_once(tokenizer: Tokenizer) -> None:
    decoder = tokenizer.stream_decoder()
    decoder.push(ids_of(tokenizer, b"\xe6"))
    assert decoder.finish() == "\ufffd"
    assert decoder.finish() == ""
    with pytest.raises(ConfigError, match="finish"):
        decoder.push(1)


def test_what_is_no_id_or_no_policy_is_refused(tokenizer: Tokenizer) -> None:
    decoder = tokenizer.stream_decoder()
    decoder.push(ids_of(tokenizer, b"\xe6"))
    with pytest.raises(TokenizerError, match="600"):
        decoder.push([1, 600])
    for other in (-1, True):
        with pytest.raises(TokenizerError, match="whole numbers"):
            decoder.push(other)
    assert decoder.push(ids_of(tokenizer, b"\xb1\x89")) == "汉"
    wrong: Any = "surrogateescape"
    for call in (tokenizer.stream_decoder, lambda e: tokenizer.decode([], e)):
        with pytest.raises(ConfigError, match="expected replace, strict, ignore"):
            call(wrong)


WRONG: list[Any] = [-1, 2**32, 2**70, True, np.True_, 1.0, np.float32(1), "1", b"1", None, [1], 600]
FORMS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "uint32": lambda ids: np.array(ids, np.uint32),
    "int64": lambda ids: np.array(ids, np.int64),
    "every second": lambda ids: np.repeat(np.array(ids, np.uint32), 2)[::2],
    "array": lambda ids: array("I", ids),
    "array of int64": lambda ids: array("q", ids),
    "memoryview": lambda ids: memoryview(array("I", ids)),
    "numpy's numbers": lambda ids: list(np.array(ids, np.uint32)),
}


@settings(max_examples=200, deadline=None)
@given(
    ids=st.lists(st.integers(0, 610), max_size=40), errors=st.sampled_from(["replace", "ignore", "strict"])
)
def test_ids_in_every_form_decode_alike(tokenizer: Tokenizer, ids: list[int], errors: Errors) -> None:
    parts = [tokenizer.id_to_bytes(i) for i in ids]
    if None in parts:
        index = parts.index(None)
        for form in FORMS.values():
            for call in (tokenizer.decode_bytes, tokenizer.decode, tokenizer.show):
                with pytest.raises(TokenizerError, match=rf"^token {index}: id {ids[index]} is not in"):
                    call(form(ids))
        return
    raw = b"".join(part or b"" for part in parts)
    assert {name: tokenizer.decode_bytes(form(ids)) for name, form in FORMS.items()} == dict.fromkeys(
        FORMS, raw
    )
    assert all(tokenizer.show(form(ids)).pieces == tokenizer.show(ids).pieces for form in FORMS.values())
    batch = [form(ids) for form in FORMS.values()]
    try:
        text = raw.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        for form in batch:
            with pytest.raises(DecodeError, match=f"text 1: not UTF-8 at byte {error.start}"):
                tokenizer.decode_batch([[], form], "strict")
    else:
        assert [tokenizer.decode(form, errors) for form in batch] == [text] * len(batch)
        assert tokenizer.decode_batch(batch, errors) == [text] * len(batch)


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 599), max_size=20), wrong=st.sampled_from(WRONG), at=st.integers(0, 20))
def test_what_is_no_id_is_named_with_its_place(
    tokenizer: Tokenizer, ids: list[Any], wrong: Any, at: int
) -> None:
    at = min(at, len(ids))
    mixed = [*ids[:at], wrong, *ids[at:]]
    for form in (mixed, tuple(mixed)):
        for call in (tokenizer.decode_bytes, tokenizer.decode, tokenizer.stream_decoder().push):
            with pytest.raises(TokenizerError, match=f"^token {at}: "):
                call(form)
        with pytest.raises(TokenizerError, match=f"^text 1: token {at}: "):
            tokenizer.decode_batch([ids, form])


@pytest.mark.parametrize("at", [2**18 - 1, 2**18, 2**18 + 300, 2**19])
@pytest.mark.parametrize(
    ("wrong", "message"), [(600, "token {}: .*600"), (-1, "token {}: -1"), ("1", "token {}: '1'")]
)
def test_what_is_no_id_in_a_long_list_is_named_with_its_place(
    tokenizer: Tokenizer, at: int, wrong: Any, message: str
) -> None:
    """Lists are read in parts."""
    ids = [1] * at + [wrong] + [1] * 10
    for call in (tokenizer.decode_bytes, tokenizer.decode):
        with pytest.raises(TokenizerError, match=message.format(at)):
            call(ids)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([1, -1]), "token 1: -1 is no id"),
        (np.array([2**32, 1]), "token 0: 4294967296 is no id"),
        (np.array([1.0]), "float64"),
        (np.array([True]), "bool"),
        (np.array([[1, 2]]), r"shape \(1, 2\).*decode_batch"),
        (np.uint32(1), "shape"),
        ("12", "expected"),
        (b"12", "expected"),
    ],
)
def test_arrays_that_are_no_ids(tokenizer: Tokenizer, ids: Any, message: str) -> None:
    for call in (tokenizer.decode_bytes, tokenizer.decode):
        with pytest.raises(TokenizerError, match=message) as raised:
            call(ids)
        assert isinstance(raised.value, ValueError)


def test_a_list_that_changes_while_it_is_read(tokenizer: Tokenizer) -> None:
    class Clearing:
        def __index__(self) -> int:
            ids.clear()
            return 1

    for after in (0, 1, 100, 1000):
        ids: list[Any] = [*[1] * 100, Clearing(), *[1] * after]
        expected = pytest.raises(IndexError) if after else nullcontext()
        with expected:
            assert tokenizer.decode_bytes(ids) == tokenizer.decode_bytes([1] * 101)

    class Growing(Clearing):
        def __index__(self) -> int:
            ids[:] = [2] * 10_000
            return 1

    ids = [*[1] * 300, Growing(), *[1] * 300]
    assert tokenizer.decode_bytes(ids) == tokenizer.decode_bytes([*[1] * 301, *[2] * 300])


CHARACTERS = ("a", "é", "汉", "😀", "\u0100", "\uffff", "\U0010ffff")
"""Of each width in UTF-8 and in a str."""
BROKEN = (b"\x80", b"\xff", b"\xc0\x80", b"\xe6\xb1", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\x80" * 5)


def first_error(raw: bytearray) -> int | None:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(CHARACTERS), min_size=1, max_size=3),
    odd=st.lists(st.tuples(st.sampled_from(BROKEN), st.integers(0, 400_000)), max_size=2),
    wide=st.lists(st.tuples(st.sampled_from(CHARACTERS), st.integers(0, 400_000)), max_size=2),
    size=st.integers(2**18 - 2, 2**18 + 2**15),
    whole=st.booleans(),
    errors=st.sampled_from(["replace", "ignore", "strict"]),
)
def test_a_long_text_decodes_as_its_bytes(
    tokenizer: Tokenizer,
    kinds: list[str],
    odd: list[tuple[bytes, int]],
    wide: list[tuple[str, int]],
    size: int,
    whole: bool,
    errors: Errors,
) -> None:
    """From 256 KiB on a text is made in slices; its ends lie at any place of a character."""
    raw = bytearray(("".join(kinds).encode() * size)[:size])
    for part, place in [*odd, *((character.encode(), place) for character, place in wide)]:
        at = place % size
        while at < size and raw[at] & 0xC0 == 0x80:
            at += 1
        raw[at:at] = part
    if whole:
        raw = bytearray(raw.decode("utf-8", "ignore").encode())
    ids = np.array([tokenizer.token_to_id(bytes([i])) for i in range(256)], np.uint32)[raw]
    for form in (ids, ids.tolist()):
        assert tokenizer.decode_bytes(form) == raw
        start = first_error(raw) if errors == "strict" else None
        if start is not None:
            with pytest.raises(DecodeError) as raised:
                tokenizer.decode(form, errors)
            assert (raised.value.token_index, raised.value.byte_offset) == (start, start)
            continue
        text, expected = tokenizer.decode(form, errors), raw.decode("utf-8", errors)
        assert text == expected
        # As large as CPython's own: no character stored more widely than need be.
        assert (sys.getsizeof(text), hash(text)) == (sys.getsizeof(expected), hash(expected))


def test_lists_of_ids_are_those_of_numpy(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(1)
    for most in (1, 600, 2**18 - 1, 2**18, 2**32 - 1):
        ids = rng.integers(0, most, 2000, np.uint32, endpoint=True)
        batch = penstock.TokenBatch(ids[::2], np.array([0, 10, 10, 1000]))
        assert batch.tolist() == [part.tolist() for part in batch]
        assert all(type(i) is int for part in batch.tolist() for i in part)
    assert tokenizer.encode(TEXT * 50) == tokenizer.encode_to_numpy(TEXT * 50).tolist()


def test_a_batch_of_one_buffer_decodes_as_its_parts(tokenizer: Tokenizer, stdlib_texts: list[str]) -> None:
    texts = [*stdlib_texts[:5], "", TEXT]
    assert tokenizer.decode_batch(tokenizer.encode_batch(texts), "strict") == texts
    assert isinstance(tokenizer.stream_decoder(), penstock.StreamDecoder)
