"""Text from a model, token by token: temperature, top-k, top-p, stop tokens, a seed.

A prompt is ordinary text: a special token's string in it yields no control token. The model sees it as
training saw a document, from position 0 with nothing before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from penstock.errors import ConfigError
from penstock.model import KVCache, Transformer

__all__ = ["SampleOptions", "TextTokenizer", "pick_token", "sample", "stream_text", "stream_tokens"]


class TextStream(Protocol):
    """What is used of a tokenizer's incremental decoder."""

    def push(self, token_id: int) -> str:
        """The characters that this token completes."""

    def finish(self) -> str:
        """What is left of a character that was never completed."""


class TextTokenizer(Protocol):
    """What is used of ``penstock.Tokenizer``."""

    @property
    def eot_id(self) -> int | None:
        """The end-of-text token."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text."""

    def stream_decoder(self) -> TextStream:
        """A fresh incremental decoder."""


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """How the next token is chosen, and when to stop."""

    max_new_tokens: int = 120
    temperature: float = 0.8
    """0 always takes the likeliest token."""
    top_k: int = 0
    """Only the k likeliest tokens; 0 means all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together have this probability; at least one."""
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    """Tokens that end the text and are not part of it; ``stream_text`` adds the end-of-text token."""

    def __post_init__(self) -> None:
        for name, ok, expected in (
            ("max_new_tokens", self.max_new_tokens >= 0, "at least 0"),
            ("temperature", self.temperature >= 0, "at least 0"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
        ):
            if not ok:
                raise ConfigError(f"{name}={getattr(self, name)} must be {expected}")


def sample(
    model: Transformer, tokenizer: TextTokenizer, prompt: str, options: SampleOptions | None = None
) -> str:
    """The text that follows ``prompt``; the arguments are those of ``stream_text``."""
    return "".join(stream_text(model, tokenizer, prompt, options))


def stream_text(
    model: Transformer, tokenizer: TextTokenizer, prompt: str, options: SampleOptions | None = None
) -> Iterator[str]:
    """The text that follows ``prompt``, in pieces of whole characters as they come.

    Parameters
    ----------
    model
        On any device; left as it is.
    tokenizer
        The one the model was trained with.
    prompt
        Ordinary text. Empty: the text starts after the end-of-text token.

    Raises
    ------
    ConfigError
        The prompt has no token and the tokenizer no end-of-text token, or prompt and new tokens are
        longer than the model's window.
    """
    options = options or SampleOptions()
    ids = tokenizer.encode(prompt)
    eot = () if tokenizer.eot_id is None else (tokenizer.eot_id,)
    decoder = tokenizer.stream_decoder()
    options = dataclasses.replace(options, stop_ids=options.stop_ids + eot)
    for token in stream_tokens(model, ids or eot, options, tokenizer.vocab_size):
        if piece := decoder.push(token):
            yield piece
    if rest := decoder.finish():
        yield rest


def stream_tokens(
    model: Transformer, prompt: Sequence[int], options: SampleOptions, vocab_size: int | None = None
) -> Iterator[int]:
    """The tokens that follow ``prompt``, until a stop token or ``max_new_tokens``.

    Parameters
    ----------
    prompt
        At least one id.
    vocab_size
        Only smaller ids are drawn: a model may have more rows than its tokenizer has tokens. None: all.

    Raises
    ------
    ConfigError
        The prompt is empty or has an id that the model lacks, or prompt and new tokens are longer than
        the model's window.
    """
    _check_prompt(model, prompt, options)
    device = next(model.parameters()).device
    # Drawn on the CPU, so that a seed gives the same text on every device, up to rounding.
    generator = torch.Generator().manual_seed(options.seed)
    cache = KVCache(model.config, 1, len(prompt) + options.max_new_tokens, device, model.dtype)
    tokens = torch.tensor([list(prompt)], dtype=torch.int64, device=device)
    for _ in range(options.max_new_tokens):
        with torch.no_grad():
            logits = model(tokens, cache=cache)[0, -1, :vocab_size]
        token = pick_token(logits.float().cpu(), options, generator)
        if token in options.stop_ids:
            return
        yield token
        tokens = torch.tensor([[token]], dtype=torch.int64, device=device)


def pick_token(logits: Tensor, options: SampleOptions, generator: torch.Generator) -> int:
    """One token id from FP32 logits ``[V]`` on the CPU.

    Temperature comes first, then top-k, then top-p over what is left. Among equal logits the smaller id
    is the likelier, so that greedy choice is one choice.
    """
    if options.temperature == 0:
        return int(logits.argmax())
    order = logits.argsort(descending=True, stable=True)
    if options.top_k:
        order = order[: options.top_k]
    # FP64: a very small temperature must not overflow.
    p = (logits[order].double() / options.temperature).softmax(0)
    before = p.cumsum(0) - p
    p = torch.where(before < options.top_p, p, 0.0)
    p[0] = p[0].clamp(min=torch.finfo(p.dtype).tiny)
    return int(order[torch.multinomial(p, 1, generator=generator)])


def _check_prompt(model: Transformer, prompt: Sequence[int], options: SampleOptions) -> None:
    config = model.config
    if not prompt:
        raise ConfigError("the prompt is empty, and the tokenizer has no end-of-text token to start after")
    if not 0 <= min(prompt) <= max(prompt) < config.vocab_size:
        raise ConfigError(
            f"the prompt has token {max(prompt)}, but model.vocab_size={config.vocab_size}: "
            "is this the tokenizer the model was trained with?"
        )
    length = len(prompt) + options.max_new_tokens
    if length > config.max_position_embeddings:
        raise ConfigError(
            f"{len(prompt)} prompt tokens and max_new_tokens={options.max_new_tokens} make {length}, more "
            f"than model.max_position_embeddings={config.max_position_embeddings}: shorten one of them"
        )
