"""The tokenizer: train, load, encode, decode, save. Names follow tiktoken and HF where those agree."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from penstock import _core
from penstock.decoding import Errors, Ids, StreamDecoder, as_ids, check_errors, decode_text
from penstock.errors import ConfigError, numbers_in_range
from penstock.jobs import ProgressCallback, run_job
from penstock.special_tokens import AllowedSpecial, allowed_names, refuse_named
from penstock.token_batch import TokenBatch
from penstock.token_view import TokenView, view_text, view_tokens
from penstock.tokenizer_training import (
    TrainingReport,
    TrainingRequest,
    as_paths,
    checked_weights,
    count_texts,
    memory_bytes,
)

__all__ = ["StreamDecoder", "TokenBatch", "Tokenizer"]

Paths = str | os.PathLike[str]


class Tokenizer:
    """A byte-level BPE tokenizer. Immutable, thread-safe, pickles by content.

    Special-token strings in a text are ordinary text unless ``allowed_special`` names them, so that no
    document can contain a control token.
    """

    def __init__(self, core: _core.Tokenizer, training: TrainingReport | None = None) -> None:
        self._core = core
        self._training = training

    @classmethod
    def train(
        cls,
        corpus: Sequence[Paths] | Iterable[str] = (),
        vocab_size: int = 128_000,
        pattern: str | None = None,
        special_tokens: Sequence[str] = ("<|endoftext|>",),
        *,
        min_frequency: int = 0,
        max_token_bytes: int | None = None,
        reserved: int = 0,
        max_memory: int | str | None = None,
        spill_folder: Paths | None = None,
        weights: Mapping[str, int] | None = None,
        max_bytes: int = 0,
        extend: Tokenizer | None = None,
        counts: Sequence[Paths] = (),
        save_counts: Paths | None = None,
        superbpe: float | None = None,
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
            gpt2, cl100k, o200k, llama3, qwen2, qwen3.5, tekken, deepseek-llm, deepseek-coder or deepseek-v3,
            which is the default; with ``extend`` that of the tokenizer to be extended. Or a regular
            expression without look-around, whose matches are pieces, as is what lies between them.
        special_tokens
            Control tokens, which get the first ids.
        min_frequency
            Pairs rarer than this are never merged.
        max_token_bytes
            No token gets longer.
        reserved
            So many further control tokens, ``<|reserved_0|>`` and so on, for later use.
        max_memory
            A bound for the whole process, as bytes or "2G". Counts that do not fit go to disk. If more
            distinct pieces than fit remain, the rare ones are sampled; ``training`` and a warning say so.
        spill_folder
            Where counts go that do not fit; the folder for temporary files by default.
        weights
            How many times each document of a source counts, by the value of its ``source`` field; else 1.
        max_bytes
            Count at most this many bytes of text; 0 means all.
        extend
            A tokenizer whose ids and merges are kept; what is learned comes behind them.
        counts
            Files of counts, saved earlier, that are added to those of the corpus.
        save_counts
            A file for the counts of all that, to go on from later.
        superbpe
            The share of the vocabulary, such as 0.6, after which tokens may reach across spaces (SuperBPE).

        Raises
        ------
        TokenizerError
            ``vocab_size`` is below 256 + specials, the corpus is empty, or the spill folder takes no files.
        InputError
            A file cannot be read as text.
        ConfigError
            An argument is not valid in itself.
        """
        if reserved < 0:
            raise ConfigError(f"reserved={reserved}: expected a whole number from 0")
        paths = as_paths(corpus)
        if paths is None and counts and isinstance(corpus, Sequence) and not corpus:
            paths = []
        request = TrainingRequest(
            vocab_size,
            _pattern_of(extend, pattern),
            [*special_tokens, *(f"<|reserved_{i}|>" for i in range(reserved))],
            min_frequency,
            max_token_bytes,
            threads,
            memory_bytes(max_memory),
            None if spill_folder is None else os.fspath(spill_folder),
            checked_weights(weights, have_sources=paths is not None),
            max_bytes,
            extend._core if extend else None,
            [os.fspath(path) for path in counts],
            None if save_counts is None else os.fspath(save_counts),
            superbpe,
        )
        with numbers_in_range():
            if paths is not None:
                job = _core.train_on_files(paths, text_field, request)
            else:
                texts = cast("Iterable[str]", corpus)
                job = _core.train_on_counts(count_texts(texts, request), request)
        core, report = run_job(job, progress)
        return cls(core, TrainingReport.from_json(report))

    @classmethod
    def from_file(cls, path: Paths, pattern: str | None = None, *, cache: Paths | None = None) -> Tokenizer:
        """Load a folder of ours, a Hugging Face ``tokenizer.json``, a ``.tiktoken`` or a ``.model`` file.

        ``pattern``, as in ``train``, is needed for a rank file alone, which does not say how text is split.
        A ``.model`` is a SentencePiece BPE with byte fallback, such as Llama 2's. Its ids are those of
        SentencePiece; decoding keeps the space that such a model may put before every text, and the tokenizer
        is saved as that model.

        ``cache`` names a file from which the same source loads several times as fast. It is checked against a
        hash of the source, and written when it is missing, damaged or of another source.

        Raises
        ------
        TokenizerError
            The file cannot be read, is damaged, or asks for what penstock does not do; the message names
            the place.
        """
        cached = None if cache is None else os.fspath(cache)
        return cls(_core.Tokenizer.from_file(os.fspath(path), pattern, cached))

    def prefix(self, vocab_size: int) -> Tokenizer:
        """The tokenizer of the first ``vocab_size`` ids, which is what training to that size gives.

        Raises
        ------
        TokenizerError
            A byte or a special token would be lost, or the vocabulary is smaller than that.
        """
        with numbers_in_range():
            return Tokenizer(self._core.prefix(vocab_size))

    def save(self, path: Paths) -> None:
        """Write a folder with ``tokenizer.json``, or a single .json or .tiktoken file, atomically."""
        self._core.save(os.fspath(path))

    def encode(
        self,
        text: str,
        *,
        allowed_special: AllowedSpecial = (),
        disallowed_special: AllowedSpecial = (),
        boundary_split: float = 0.0,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> list[int]:
        """The ids of ``text``.

        With ``boundary_split`` or ``dropout`` the ids vary at random and still decode to ``text``: for
        training data. What is drawn depends on ``seed`` and on the text alone.

        Parameters
        ----------
        allowed_special
            The control tokens that the text may name, or "all".
        disallowed_special
            Those that are an error if the text holds them, or "all" for all that are not allowed, as is the
            rule in tiktoken. Others are ordinary text.
        boundary_split
            How often a token that joins punctuation and line breaks is encoded as its two halves, against
            token boundary bias (DeepSeek-V3 report, section 4.1).
        dropout
            How often a merge is left out (BPE-dropout, Provilkov and others 2020). 1 gives single bytes.

        Raises
        ------
        ConfigError
            A share is not a number from 0 to 1, or the seed not one from 0 to 2**64 - 1.
        TokenizerError
            Tokens are to be split, and none of the vocabulary joins punctuation and line breaks; or the text
            holds a disallowed token.
        """
        allowed = self._allowed([text], allowed_special, disallowed_special)
        if boundary_split or dropout:
            return _core.to_list(self._vary(text, allowed, boundary_split, dropout, seed))
        return self._core.encode_to_list(text, allowed)

    def encode_to_numpy(
        self,
        text: str,
        *,
        allowed_special: AllowedSpecial = (),
        disallowed_special: AllowedSpecial = (),
        boundary_split: float = 0.0,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> NDArray[np.uint32]:
        """The same as uint32[n], without Python integers between."""
        allowed = self._allowed([text], allowed_special, disallowed_special)
        if boundary_split or dropout:
            return self._vary(text, allowed, boundary_split, dropout, seed)
        return self._core.encode(text, allowed)

    def _allowed(
        self, texts: list[str], allowed_special: AllowedSpecial, disallowed_special: AllowedSpecial
    ) -> list[str] | None:
        """The control tokens that texts may name, for the core; texts with a disallowed one are refused."""
        allowed = allowed_names(allowed_special)
        if disallowed_special:
            refuse_named(texts, self.special_tokens, allowed_special, disallowed_special)
        return allowed

    def _vary(
        self, text: str, allowed: list[str] | None, boundary_split: float, dropout: float, seed: int
    ) -> NDArray[np.uint32]:
        with numbers_in_range():
            return self._core.encode_varied([text], allowed, boundary_split, dropout, seed, 1)[0]

    def encode_batch(
        self,
        texts: Sequence[str],
        *,
        allowed_special: AllowedSpecial = (),
        disallowed_special: AllowedSpecial = (),
        boundary_split: float = 0.0,
        dropout: float = 0.0,
        seed: int = 0,
        threads: int | None = None,
    ) -> TokenBatch:
        """The ids of several texts, each as ``encode`` gives them, encoded in parallel without the GIL."""
        texts = list(texts)
        allowed = self._allowed(texts, allowed_special, disallowed_special)
        with numbers_in_range():
            if boundary_split or dropout:
                varied = self._core.encode_varied(texts, allowed, boundary_split, dropout, seed, threads)
                return TokenBatch(*varied)
            return TokenBatch(*self._core.encode_batch(texts, allowed, threads))

    def encode_files(
        self,
        paths: Paths | Sequence[Paths],
        *,
        text_field: str = "text",
        end_of_text: bool = False,
        boundary_split: float = 0.0,
        dropout: float = 0.0,
        seed: int = 0,
        max_line_bytes: int = 256 << 20,
        threads: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> TokenBatch:
        """The ids of every document of files, in their order, without a Python string between.

        Parameters
        ----------
        paths
            .jsonl, .txt (one document), .parquet or .arrow; the first two also .gz or .zst.
        text_field
            The JSON key or column that holds the text.
        end_of_text
            Whether each document ends with the end-of-text token, if there is one.
        boundary_split, dropout, seed
            As in ``encode``.
        max_line_bytes
            The largest line, row or text file, which bounds what is read at once.

        Raises
        ------
        InputError
            A file cannot be read as text; the message names file, line and byte.
        ConfigError
            A number is out of range.
        """
        files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        with numbers_in_range():
            job = _core.encode_files(
                [os.fspath(path) for path in files],
                self._core,
                text_field,
                max_line_bytes,
                end_of_text,
                boundary_split,
                dropout,
                seed,
                threads,
            )
        return TokenBatch(*run_job(job, progress))

    def encode_with_offsets(
        self,
        text: str,
        *,
        allowed_special: AllowedSpecial = (),
        disallowed_special: AllowedSpecial = (),
        unit: Literal["characters", "bytes"] = "characters",
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of ``text`` and, as int64[n, 2], where each token starts and ends in it.

        Characters count as in Python and in Hugging Face tokenizers: a token that holds a part of one lies
        over all of it, so neighbours may overlap. Bytes are those of UTF-8, where tokens lie side by side.

        Raises
        ------
        TokenizerError
            The tokenizer normalises text, and would change this one.
        ConfigError
            ``unit`` is neither.
        """
        if unit not in ("characters", "bytes"):
            raise ConfigError(f"unit={unit!r}: expected characters or bytes")
        is_characters = unit == "characters"
        allowed = self._allowed([text], allowed_special, disallowed_special)
        ids, offsets = self._core.encode_with_offsets(text, allowed, is_characters)
        return ids, offsets.reshape(-1, 2)

    def count_tokens(self, text: str, *, allowed_special: AllowedSpecial = ()) -> int:
        """``len(encode(text))`` without the list."""
        if allowed_special:
            return len(self.encode_to_numpy(text, allowed_special=allowed_special))
        return self._core.count_tokens(text)

    def decode(self, ids: Ids, errors: Errors = "replace") -> str:
        """The text of ``ids``; ``errors`` says what becomes of bytes that are no UTF-8.

        Raises
        ------
        TokenizerError
            One is no id, or not in the vocabulary; the message names its place.
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
            One is no id, or not in the vocabulary; the message names its place.
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
        """The token boundaries of a text, or of ids: in colour in a notebook, as bars in a terminal.

        Of a long text the first 4000 tokens are shown, and no more of it is encoded than that takes, unless
        it cannot be told where the split pattern may be cut off.
        """
        if isinstance(text, str):
            return view_text(self._core, text, allowed_names(allowed_special))
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
    def training(self) -> TrainingReport | None:
        """How it was trained, if it was trained in this process."""
        return self._training

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
        """The text of a Hugging Face ``tokenizer.json``.

        Raises
        ------
        TokenizerError
            The tokenizer came from a SentencePiece model.
        """
        return self._core.to_json()

    def __repr__(self) -> str:
        return f"<Tokenizer {self.vocab_size} tokens, pattern {self.pattern}, sha256 {self.sha256[:12]}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def __reduce__(self) -> tuple[Any, ...]:
        model = self._core.sentencepiece_model()
        if model is not None:
            return _from_sentencepiece, (model,)
        # A tokenizer.json cannot say that merges go by rank, as those of a rank file do.
        return _from_bytes, (self._core.to_bytes(),)


def _from_bytes(content: bytes) -> Tokenizer:
    return Tokenizer(_core.Tokenizer.from_bytes(content))


def _from_sentencepiece(model: bytes) -> Tokenizer:
    return Tokenizer(_core.Tokenizer.from_sentencepiece(model))


def _pattern_of(extend: Tokenizer | None, pattern: str | None) -> str:
    if extend is None:
        return pattern or "deepseek-v3"
    if pattern not in (None, extend.pattern):
        raise ConfigError(f"pattern {pattern!r}: the tokenizer to be extended splits by {extend.pattern!r}")
    return extend.pattern
