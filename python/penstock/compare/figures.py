"""What a comparison found, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from penstock.token_view import TokenPiece, TokenView

__all__ = [
    "Comparison",
    "Interval",
    "SourceSize",
    "TokenizerFigures",
    "VocabularyUse",
    "as_plain",
    "cut_alike",
]


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % bootstrap interval over documents; None where too few of them can say."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class SourceSize:
    """How much text a source gave."""

    name: str
    documents: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class VocabularyUse:
    """Of the ordinary tokens, special ones aside."""

    tokens: int
    used: int
    """Tokens that turn up in the corpus at least once."""
    never_used: tuple[TokenPiece, ...]
    """The first of those that do not, in order of their ids."""
    longest: tuple[tuple[TokenPiece, int], ...]
    """The longest tokens and how often they turn up."""
    unreachable: int
    """Tokens whose own text, encoded alone, becomes other tokens: the merges or the split never make them."""
    unreachable_examples: tuple[TokenPiece, ...]
    partial: int
    """Tokens that hold part of a character, for which that cannot be tried."""

    @property
    def used_share(self) -> float:
        """From 0 to 1."""
        return self.used / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, kw_only=True)
class TokenizerFigures:
    """What one tokenizer makes of the corpus."""

    name: str
    path: str
    pattern: str
    sha256: str
    vocab_size: int
    tokens: int
    bytes_per_token: Interval
    by_source: Mapping[str, Interval]
    tokens_against_first: Interval
    """Its tokens over those of the first tokenizer, on the same resampled documents; below 1 is fewer."""
    seconds: float
    vocabulary: VocabularyUse
    number_tokens: tuple[float, ...]
    """Mean tokens of a number of 1, 2, 3, ... digits."""
    number_view: TokenView
    indent_tokens: Mapping[str, int]
    """Tokens that an indentation adds to a line of code."""
    code_view: TokenView

    @property
    def tokens_per_second(self) -> float:
        """Of this machine, threads and pass."""
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Tokenizers side by side."""

    sources: tuple[SourceSize, ...]
    tokenizers: tuple[TokenizerFigures, ...]
    threads: int
    truncated: bool
    """Whether the corpus holds more text than was read."""

    @property
    def documents(self) -> int:
        """Over all sources."""
        return sum(source.documents for source in self.sources)

    @property
    def bytes(self) -> int:
        """Of text, over all sources."""
        return sum(source.bytes for source in self.sources)


def cut_alike(views: Sequence[tuple[str, TokenView]]) -> list[tuple[list[str], TokenView]]:
    """Names of the tokenizers that cut a text at the same places, and one of their views."""
    groups: dict[tuple[bytes, ...], tuple[list[str], TokenView]] = {}
    for name, view in views:
        groups.setdefault(tuple(piece.bytes for piece in view), ([], view))[0].append(name)
    return list(groups.values())


def as_plain(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON has it; tokens are shown with visible white space."""
    return {
        "documents": comparison.documents,
        "bytes": comparison.bytes,
        "truncated": comparison.truncated,
        "threads": comparison.threads,
        "sources": [vars(source) for source in comparison.sources],
        "tokenizers": [_tokenizer(figures, comparison.bytes) for figures in comparison.tokenizers],
    }


def _tokenizer(figures: TokenizerFigures, corpus_bytes: int) -> dict[str, Any]:
    use = figures.vocabulary
    return {
        "name": figures.name,
        "path": figures.path,
        "pattern": figures.pattern,
        "sha256": figures.sha256,
        "vocab_size": figures.vocab_size,
        "tokens": figures.tokens,
        "bytes_per_token": vars(figures.bytes_per_token),
        "by_source": {name: vars(interval) for name, interval in figures.by_source.items()},
        "tokens_against_first": vars(figures.tokens_against_first),
        "tokens_per_second": figures.tokens_per_second,
        "bytes_per_second": corpus_bytes / figures.seconds if figures.seconds else 0.0,
        "vocabulary": {
            "ordinary_tokens": use.tokens,
            "used": use.used,
            "used_share": use.used_share,
            "never_used": use.tokens - use.used,
            "never_used_first": [_piece(piece) for piece in use.never_used],
            "longest": [{**_piece(piece), "count": count} for piece, count in use.longest],
            "unreachable": use.unreachable,
            "unreachable_first": [_piece(piece) for piece in use.unreachable_examples],
            "part_of_a_character": use.partial,
        },
        "tokens_by_digits": list(figures.number_tokens),
        "numbers": str(figures.number_view),
        "tokens_by_indentation": dict(figures.indent_tokens),
        "code": str(figures.code_view),
    }


def _piece(piece: TokenPiece) -> dict[str, Any]:
    return {"id": piece.id, "text": str(piece), "bytes": len(piece.bytes)}
