"""Ids back to text: whole, in batches, or as they come, and never half a character."""

from __future__ import annotations

import codecs
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from penstock import _core
from penstock.errors import ConfigError, DecodeError, TokenizerError

__all__ = ["Errors", "Ids", "StreamDecoder", "as_ids", "check_errors", "decode_text"]

Ids = Sequence[int] | NDArray[np.uint32]
Errors = Literal["replace", "strict", "ignore"]
"""What to do with bytes that are no UTF-8: show U+FFFD, raise ``DecodeError``, leave them out."""

MAX_ID = 0xFFFF_FFFF
BUFFERS = (str, bytes, bytearray, memoryview, array)
"""What numpy reads without a copy, or refuses."""


def decode_text(core: _core.Tokenizer, ids: Ids, errors: Errors = "replace", place: str = "") -> str:
    """The text of ``ids``; ``place`` stands before the message of an error.

    Raises
    ------
    DecodeError
        ``errors`` is strict and the bytes are not UTF-8.
    TokenizerError
        One is no id, or not in the vocabulary.
    """
    try:
        checked = as_ids(ids)
        return core.decode(checked, errors)
    except TokenizerError as error:
        if place:
            raise TokenizerError(f"{place}{error}") from None
        raise
    except UnicodeDecodeError as error:
        sizes = (len(core.id_to_bytes(i) or b"") for i in map(int, checked))
        index = next(i for i, end in enumerate(accumulate(sizes)) if end > error.start)
        raise _decode_error(place, index, int(checked[index]), error.start, error.reason) from None


class StreamDecoder:
    """Turns ids into text as they come and never hands out half a character.

    All that it hands out, joined, is what ``Tokenizer.decode`` gives for all the ids at once, however they
    are cut into chunks.

    Parameters
    ----------
    errors
        replace, strict or ignore. A strict decoder raises ``DecodeError`` as soon as the bytes cannot become
        UTF-8, and is then as it was before that call.
    """

    def __init__(self, core: _core.Tokenizer, errors: Errors = "replace") -> None:
        check_errors(errors)
        self._core = core
        self._errors = errors
        self._pending = b""
        """The start of a character that is not yet complete."""
        self._holders: list[int] = []
        """Ids of the tokens that hold the pending bytes, the newest last."""
        self._tokens = 0
        self._bytes = 0
        self._finished = False

    def push(self, ids: int | Ids) -> str:
        """Take one id or several; the characters that are complete now, perhaps none.

        Raises
        ------
        DecodeError
            The decoder is strict and the bytes are not UTF-8.
        TokenizerError
            An id is not in the vocabulary; nothing of this call was taken.
        """
        if self._finished:
            raise ConfigError("push() after finish(): ask the tokenizer for a new stream_decoder()")
        # Ids mostly come one at a time, where an array would cost more than all the rest.
        if type(ids) is int and 0 <= ids <= MAX_ID:
            data = self._core.id_to_bytes(ids)
            if data is not None:
                return self._decoded(data, [ids])
        chunk = as_ids([ids] if isinstance(ids, int | np.integer) else ids)
        return self._decoded(self._core.decode_bytes(chunk), chunk)

    def finish(self) -> str:
        """End the stream; what an incomplete character at its end becomes.

        Raises
        ------
        DecodeError
            The decoder is strict and the stream ends within a character.
        """
        if self._finished:
            return ""
        self._finished = True
        return self._decoded(b"", [], final=True)

    def iterate(self, stream: Iterable[int | Ids]) -> Iterator[str]:
        """The texts, none of them empty, of a whole stream of ids or chunks of ids, the end included."""
        for ids in stream:
            if text := self.push(ids):
                yield text
        if text := self.finish():
            yield text

    def _decoded(self, data: bytes, ids: Ids, final: bool = False) -> str:
        """The text that ``data``, the bytes of ``ids``, completes."""
        raw = self._pending + data
        try:
            text, used = codecs.utf_8_decode(raw, self._errors, final)
        except UnicodeDecodeError as error:
            raise self._located(error, ids, len(data)) from None
        self._tokens += len(ids)
        self._bytes += len(data)
        if used < len(raw):
            # At most three bytes are pending, and no token is empty.
            newest = [int(i) for i in ids[-3:]]
            self._holders = self._last(self._holders + newest, len(raw) - used)
            self._pending = raw[used:]
        elif self._pending:
            self._holders, self._pending = [], b""
        return text

    def _located(self, error: UnicodeDecodeError, new: Ids, size: int) -> DecodeError:
        """The place in the stream of what ``error`` found in the pending bytes and ``size`` new ones."""
        byte = self._bytes - len(self._pending) + error.start
        ids = self._holders + [int(i) for i in new]
        ends = list(accumulate(self._size(i) for i in ids))
        start = self._bytes + size - (ends[-1] if ends else 0)
        index = next(i for i, end in enumerate(ends) if start + end > byte)
        return _decode_error("", self._tokens - len(self._holders) + index, ids[index], byte, error.reason)

    def _last(self, ids: list[int], size: int) -> list[int]:
        """The ids at the end that together have at least ``size`` bytes."""
        count = 0
        while size > 0:
            count += 1
            size -= self._size(ids[-count])
        return ids[len(ids) - count :]

    def _size(self, token_id: int) -> int:
        return len(self._core.id_to_bytes(token_id) or b"")


def as_ids(ids: Ids) -> list[int] | NDArray[np.uint32]:
    """Ids as the extension takes them; it checks a list itself.

    Raises
    ------
    TokenizerError
        An array is not one row of whole numbers that fit 32 bits.
    """
    if type(ids) is list:
        return ids
    if not isinstance(ids, BUFFERS) and not hasattr(ids, "__array__"):
        return list(ids)
    row = np.asarray(ids)
    if row.ndim != 1:
        raise TokenizerError(f"ids of shape {row.shape}: expected one row; decode_batch takes several")
    if row.size and row.dtype.kind not in "iu":
        raise TokenizerError(f"ids of type {row.dtype}: expected whole numbers")
    if row.dtype != np.uint32 and row.size and (row.min() < 0 or row.max() > MAX_ID):
        index = int(np.flatnonzero((row < 0) | (row > MAX_ID))[0])
        raise TokenizerError(
            f"token {index}: {row[index]} is no id: ids are whole numbers from 0 to 2**32 - 1"
        )
    return np.ascontiguousarray(row, dtype=np.uint32)


def check_errors(errors: str) -> None:
    """Refuse a word that is none of ``Errors``, also where no error would have shown it.

    Raises
    ------
    ConfigError
    """
    if errors not in get_args(Errors):
        raise ConfigError(f"errors={errors!r}: expected {', '.join(get_args(Errors))}")


def _decode_error(place: str, token: int, token_id: int, byte: int, reason: str) -> DecodeError:
    words = (
        f"{place}not UTF-8 at byte {byte}, in token {token} (id {token_id}): {reason}; "
        "errors='replace' shows U+FFFD there, and decode_bytes gives the bytes as they are"
    )
    return DecodeError(words, token_index=token, byte_offset=byte)
