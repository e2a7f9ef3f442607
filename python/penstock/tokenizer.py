"""The tokenizer: train, load, encode, decode, save. Names follow tiktoken and HF where those agree."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from penstock import _core
from penstock.decoding import Errors, Ids, StreamDecoder, as_ids, check_errors, decode_text
from penstock.errors import numbers_in_range
from penstock.jobs import ProgressCallback, run_job
from penstock.token_view import TokenView, view_tokens

if TYPE_CHECKING:
    import pyarrow

__all__ = ["StreamDecoder", "TokenBatch", "Tokenizer"]

Paths = str | os.PathLike[str]
AllowedSpecial = Literal["all"] | Collection[str]

TRAINING_BATCH_DOCUMENTS = 1024


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of several texts, end to end.

    Attributes
    ----------
    ids : uint32[n]
    offsets : int64[texts + 1]
        Text ``i`` is ``ids[offsets[i]:offsets[i + 1]]``.
    """

    ids: NDArray[np.uint32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.uint32]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of a batch of {len(self)}")
        index %= len(self)
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[NDArray[np.uint32]]:
        return (self[i] for i in range(len(self)))

    def tolist(self) -> list[list[int]]:
        """A list of ints a text."""
        return [part.tolist() for part in self]

    def to_arrow(self) -> pyarrow.LargeListArray:
        """A ``large_list<uint32>`` that shares these buffers. Needs pyarrow."""
        import pyarrow

        return pyarrow.LargeListArray.from_arrays(pyarrow.array(self.offsets), pyarrow.array(self.ids))


class Tokenizer:
    """A byte-level BPE tokenizer. Immutable, thread-safe, pickles by content.

    Special-token strings in a text are ordinary text unless ``allowed_special`` names them, so that no
    document can contain a control token.
    """

    def __init__(self, core: _core.Tokenizer) -> None:
        self._core = core

    @classmethod
    def train(
        cls,
        corpus: Sequence[Paths] | Iterable[str],
        vocab_size: int = 128_000,
        pattern: str = "deepseek-v3",
        special_tokens: Sequence[str] = ("<|endoftext|>",),
        *,
        min_frequency: int = 0,
        max_bytes: int = 0,
        text_field: str = "text",
        threads: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> Tokenizer:
        """Learn a vocabulary; the same corpus gives the same bits on any number of threads.

        Parameters
        ----------
        corpus
            A list of files (.jsonl, .txt, .parquet, .arrow; plain, .gz or .zst), or any other iterable of
            texts. A list whose first item is a path-like or names an existing file is a list of files.
        vocab_size
            Tokens in all, specials included.
        pattern
            gpt2, cl100k, o200k, llama3, qwen2 or deepseek-v3.
        special_tokens
            Control tokens, which get the first ids.
        min_frequency
            Pairs rarer than this are never merged.
        max_bytes
            Count at most this many bytes of text; 0 means all.

        Raises
        ------
        TokenizerError
            ``vocab_size`` is below 256 + specials, or the corpus is empty.
        InputError
            A file cannot be read as text.
        """
        options = (vocab_size, pattern, list(special_tokens), min_frequency, threads)
        paths = _as_paths(corpus)
        with numbers_in_range():
            if paths is not None:
                job = _core.TrainTokenizerJob.from_files(paths, text_field, max_bytes, *options)
            else:
                texts = cast("Iterable[str]", corpus)
                job = _core.TrainTokenizerJob.from_counts(_count(texts, pattern, max_bytes), *options)
        return cls(run_job(job, progress))

    @classmethod
    def from_file(cls, path: Paths, pattern: str | None = None) -> Tokenizer:
        """Load a folder of ours, a Hugging Face ``tokenizer.json`` or a ``.tiktoken`` rank file.

        ``pattern`` is needed for a rank file alone, which does not say how text is split.

        Raises
        ------
        TokenizerError
            The file cannot be read, is damaged, or asks for what penstock does not do; the message names
            the place.
        """
        return cls(_core.Tokenizer.from_file(os.fspath(path), pattern))

    def save(self, path: Paths) -> None:
        """Write a folder with ``tokenizer.json``, or a single .json or .tiktoken file, atomically."""
        self._core.save(os.fspath(path))

    def encode(self, text: str, *, allowed_special: AllowedSpecial = ()) -> list[int]:
        """The ids of ``text``."""
        ids: list[int] = self.encode_to_numpy(text, allowed_special=allowed_special).tolist()
        return ids

    def encode_to_numpy(self, text: str, *, allowed_special: AllowedSpecial = ()) -> NDArray[np.uint32]:
        """The ids of ``text`` as uint32[n], without Python integers between."""
        return self._core.encode(text, _allowed(allowed_special))

    def encode_batch(
        self, texts: Sequence[str], *, allowed_special: AllowedSpecial = (), threads: int | None = None
    ) -> TokenBatch:
        """The ids of several texts, encoded in parallel without the GIL."""
        return TokenBatch(*self._core.encode_batch(list(texts), _allowed(allowed_special), threads))

    def count_tokens(self, text: str) -> int:
        """``len(encode(text))`` without the list."""
        return self._core.count_tokens(text)

    def decode(self, ids: Ids, errors: Errors = "replace") -> str:
        """The text of ``ids``; ``errors`` says what becomes of bytes that are no UTF-8.

        Raises
        ------
        DecodeError
            ``errors`` is strict; the error names the token and the byte.
        """
        check_errors(errors)
        return decode_text(self._core, ids, errors)

    def decode_bytes(self, ids: Ids) -> bytes:
        """The bytes of ``ids``.

        Raises
        ------
        TokenizerError
            An id is not in the vocabulary.
        """
        return self._core.decode_bytes(as_ids(ids))

    def decode_batch(self, batch: Iterable[Ids], errors: Errors = "replace") -> list[str]:
        """The texts of several lists of ids."""
        check_errors(errors)
        return [decode_text(self._core, ids, errors, f"text {i}: ") for i, ids in enumerate(batch)]

    def stream_decoder(self, errors: Errors = "replace") -> StreamDecoder:
        """Decodes ids as they come, one or several at a time, and never hands out half a character."""
        return StreamDecoder(self._core, errors)

    def show(self, text: str | Ids, *, allowed_special: AllowedSpecial = ()) -> TokenView:
        """The token boundaries of a text, or of ids: in colour in a notebook, as bars in a terminal."""
        if isinstance(text, str):
            return view_tokens(self._core, self.encode_to_numpy(text, allowed_special=allowed_special))
        return view_tokens(self._core, text)

    def token_to_id(self, token: str | bytes) -> int | None:
        """The id of a token given as text or bytes, or None."""
        return self._core.token_to_id(token.encode() if isinstance(token, str) else token)

    def id_to_bytes(self, token_id: int) -> bytes | None:
        """The bytes of a token, or None for an id that is not in the vocabulary."""
        return self._core.id_to_bytes(token_id)

    @property
    def vocab_size(self) -> int:
        """Everything, specials included: one more than the largest id."""
        return self._core.vocab_size

    @property
    def eot_id(self) -> int | None:
        """The id of the end-of-text token, or None."""
        return self._core.eot_id

    @property
    def special_tokens(self) -> dict[str, int]:
        """Control tokens and their ids."""
        return dict(self._core.special_tokens())

    @property
    def pattern(self) -> str:
        """The name of the split pattern."""
        return self._core.pattern

    @property
    def sha256(self) -> str:
        """Of the content, in hex: equal for equal tokenizers, whatever file they came from."""
        return self._core.sha256

    def merges(self) -> list[tuple[bytes, bytes]]:
        """The merges, most frequent first."""
        return self._core.merges()

    def to_json(self) -> str:
        """The text of a Hugging Face ``tokenizer.json``."""
        return self._core.to_json()

    def __repr__(self) -> str:
        return f"<Tokenizer {self.vocab_size} tokens, pattern {self.pattern}, sha256 {self.sha256[:12]}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_json, (self.to_json(),)


def _from_json(text: str) -> Tokenizer:
    return Tokenizer(_core.Tokenizer.from_json(text))


def _as_paths(corpus: object) -> list[str] | None:
    """The files that ``corpus`` names, or None when it holds texts."""
    if isinstance(corpus, str | os.PathLike):
        return [os.fspath(corpus)]
    if not isinstance(corpus, list | tuple) or not corpus:
        return None
    first = corpus[0]
    named = isinstance(first, os.PathLike) or (isinstance(first, str) and _looks_like_file(first))
    return [os.fspath(p) for p in corpus] if named else None


def _looks_like_file(text: str) -> bool:
    if len(text) > 4096 or "\n" in text:
        return False
    known = (".jsonl", ".json", ".txt", ".parquet", ".arrow", ".gz", ".zst")
    return text.endswith(known) or Path(text).is_file()


def _count(texts: Iterable[str], pattern: str, max_bytes: int) -> _core.WordCounts:
    """Count the pieces of an iterable of texts, in batches, so that the iterable is never held whole."""
    counts = _core.WordCounts(pattern, max_bytes)
    source = iter(texts)
    while batch := list(islice(source, TRAINING_BATCH_DOCUMENTS)):
        if not counts.add(batch):
            break
    return counts


def _allowed(allowed: AllowedSpecial) -> list[str] | None:
    """None for all, else the list."""
    return None if allowed == "all" else list(allowed)
