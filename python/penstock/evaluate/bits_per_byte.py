"""Bits per byte of held-out text: a loss that does not depend on the tokenizer.

The unit is a document, encoded as ordinary text. Its tokens are scored as training saw them: a document
is attended to alone and its positions start at 0. A document longer than the model's window is scored in
windows of ``seq_len`` tokens that move on by half a window, and each window scores only the tokens that
none before it did, so each token counts once and has at least half a window before it.

No training target is ever a document's first token. It is scored after the end-of-text token alone, or,
where the tokenizer has none, as one of ``vocab_size`` equally likely ones. The end-of-text token after a
document stands for no byte and is not scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from penstock.errors import ConfigError, DataError

__all__ = [
    "BitsPerByte",
    "LanguageModel",
    "ScoredDocument",
    "TextEncoder",
    "Window",
    "bits_per_byte",
    "encode_documents",
    "windows",
]

MAX_LOGIT_BYTES = 1 << 30
"""Logits of one forward pass; a batch that needs more is scored in parts."""
POOL_BATCHES = 32
"""Windows of this many batches are sorted by length together, to pad little."""


class TextEncoder(Protocol):
    """What is used of ``penstock.Tokenizer``."""

    @property
    def eot_id(self) -> int | None:
        """The end-of-text token."""

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text."""


class LanguageModel(Protocol):
    """What is used of ``penstock.model.Transformer``."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits [B, S, V] of int64 tokens [B, S]; causal."""


@dataclass(frozen=True)
class BitsPerByte:
    """How many bits a model needs for a text, and for how much text that is."""

    bits: float
    bytes: int
    tokens: int
    documents: int

    @property
    def value(self) -> float:
        """Bits per byte of UTF-8; lower is better."""
        return self.bits / self.bytes


@dataclass(frozen=True)
class ScoredDocument:
    """A held-out document's tokens and the bytes they stand for."""

    ids: Sequence[int]
    bytes: int


@dataclass(frozen=True)
class Window:
    """A stretch of a document: ``ids[:-1]`` is read, the last ``scored`` of ``ids`` are predicted."""

    ids: Sequence[int]
    scored: int


def bits_per_byte(
    model: LanguageModel,
    tokenizer: TextEncoder,
    documents: Iterable[str],
    *,
    seq_len: int,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    max_bytes: int = 0,
) -> BitsPerByte:
    """Score documents with a model.

    Parameters
    ----------
    model
        Gives logits float [B, S, V] for int64 tokens [B, S] on ``device``.
    tokenizer
        The one the model was trained with.
    documents
        Texts; empty ones are left out.
    seq_len
        Tokens that the model reads at once, at least 2.
    batch_size
        Windows a forward pass, at most.
    max_bytes
        Stop after this much text, the last document cut at a whole character; 0 means all.

    Returns
    -------
    BitsPerByte
        The sums over all documents; ``.value`` is the ratio.

    Raises
    ------
    ConfigError
        ``seq_len`` or ``batch_size`` is too small.
    DataError
        There is no text.
    """
    if seq_len < 2 or batch_size < 1:
        raise ConfigError(f"seq_len={seq_len} must be at least 2 and batch_size={batch_size} at least 1")
    first = _FirstToken(model, tokenizer.eot_id, device)
    nats, total_bytes, tokens, count = 0.0, 0, 0, 0
    pool: list[Window] = []
    with torch.no_grad():
        for document in encode_documents(tokenizer, documents, max_bytes):
            count += 1
            tokens += len(document.ids)
            total_bytes += document.bytes
            nats += first.nats(document.ids[0])
            pool += windows(document.ids, seq_len)
            if len(pool) >= POOL_BATCHES * batch_size:
                nats += _score(model, _batches(pool, batch_size, first.vocab_size), device)
                pool.clear()
        nats += _score(model, _batches(pool, batch_size, first.vocab_size), device)
    if not total_bytes:
        raise DataError("there is no held-out text to score: every document is empty")
    return BitsPerByte(nats / math.log(2), total_bytes, tokens, count)


def encode_documents(
    tokenizer: TextEncoder, documents: Iterable[str], max_bytes: int = 0
) -> Iterator[ScoredDocument]:
    """The documents that an evaluation scores, encoded; at most ``max_bytes`` of text, 0 means all."""
    left = max_bytes or math.inf
    for text in documents:
        raw = text.encode()
        if len(raw) > left:
            raw = raw[: int(left)].decode(errors="ignore").encode()
            left = 0
        left -= len(raw)
        if raw:
            yield ScoredDocument(tokenizer.encode(raw.decode()), len(raw))
        if left <= 0:
            return


def windows(ids: Sequence[int], seq_len: int) -> Iterator[Window]:
    """Windows that score each token of a document but its first exactly once."""
    start, scored = 0, 1
    while scored < len(ids):
        end = min(start + seq_len + 1, len(ids))
        yield Window(ids[start:end], end - scored)
        scored = end
        start += seq_len - seq_len // 2


class _FirstToken:
    """The cost of a document's first token; its context is the same for all, so it is computed once."""

    def __init__(self, model: LanguageModel, eot_id: int | None, device: torch.device | str) -> None:
        probe = torch.tensor([[eot_id or 0]], device=device)
        with torch.no_grad():
            logits = model(probe)[0, 0].float()
        if eot_id is None:
            logits = torch.zeros_like(logits)
        self._nats: list[float] = (-F.log_softmax(logits, dim=-1)).tolist()
        self.vocab_size = len(self._nats)

    def nats(self, token: int) -> float:
        return self._nats[token]


def _batches(pool: list[Window], batch_size: int, vocab_size: int) -> Iterator[list[Window]]:
    """Windows of like length together, no more than ``batch_size`` and than the logits' memory allows."""
    batch: list[Window] = []
    for window in sorted(pool, key=lambda w: len(w.ids)):
        logit_bytes = 4 * vocab_size * (len(window.ids) - 1) * (len(batch) + 1)
        if batch and (len(batch) == batch_size or logit_bytes > MAX_LOGIT_BYTES):
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _score(model: LanguageModel, batches: Iterable[Sequence[Window]], device: torch.device | str) -> float:
    """Nats of all batches, read back once."""
    sums = [_score_batch(model, batch, device) for batch in batches]
    return float(torch.stack(sums).sum()) if sums else 0.0


def _score_batch(model: LanguageModel, batch: Sequence[Window], device: torch.device | str) -> Tensor:
    """Nats of one batch, float64 scalar. Padding stands at the end, where a causal model cannot see it."""
    length = max(len(w.ids) for w in batch) - 1
    tokens = torch.zeros(len(batch), length, dtype=torch.int64)
    targets = torch.full((len(batch), length), -100)
    for row, window in enumerate(batch):
        ids = torch.tensor(window.ids, dtype=torch.int64)
        n = len(ids) - 1
        tokens[row, :n] = ids[:-1]
        targets[row, n - window.scored : n] = ids[len(ids) - window.scored :]
    tokens, targets = tokens.to(device), targets.to(device)
    logits = model(tokens)
    nats = F.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="none"
    )
    return nats.double().sum()
