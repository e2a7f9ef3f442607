"""Token boundaries made visible: in colour where HTML is shown, with bars in plain text.

Every token is hostile: markup is escaped, control and direction-changing characters are spelled out, and a
token that holds part of a character shows its bytes.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from penstock import _core
from penstock.decoding import as_ids

if TYPE_CHECKING:
    from penstock.decoding import Ids

__all__ = ["TokenPiece", "TokenView", "view_text", "view_tokens"]

MAX_SHOWN = 4000
"""Tokens of one view; a notebook keeps what it shows."""
LONG_CHARACTERS = 32 * MAX_SHOWN
"""Characters of a text of which only the start may be looked at; some tokens are long."""
BAR = "│"
JOINERS = "\u200c\u200d"
"""Format characters without which emoji and Indic text fall apart."""
# Translucent, so that the reader's own ink and paper, light or dark, show through.
TINTS = ("45, 125, 210", "233, 138, 21", "30, 160, 110", "200, 80, 160", "130, 110, 230")
BLOCK_STYLE = (
    "font-family: ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; font-size: 13px; "
    "line-height: 1.8; white-space: pre-wrap; overflow-wrap: anywhere"
)

Kind = Literal["text", "mark", "escape"]


@dataclass(frozen=True)
class TokenPiece:
    """One token of a text."""

    id: int
    bytes: bytes
    special: bool = False

    def __str__(self) -> str:
        """Its characters with white space, control characters and stray bytes made visible."""
        return "".join(shown for _, shown in _visible(self.bytes))


@dataclass(frozen=True)
class TokenView:
    """Tokens to look at: coloured in a notebook, cut by bars in a terminal."""

    pieces: tuple[TokenPiece, ...]
    of_characters: int | None = None
    """The length of the text, if these are the first tokens of a longer one."""

    def __len__(self) -> int:
        return len(self.pieces)

    def __iter__(self) -> Iterator[TokenPiece]:
        return iter(self.pieces)

    def __str__(self) -> str:
        shown = self.pieces[:MAX_SHOWN]
        return BAR.join(str(piece).replace(BAR, r"\u2502") for piece in shown) + self._rest()

    def __repr__(self) -> str:
        return f"{self}\n[{self._summary()}]" if self.pieces else "[0 tokens]"

    def _repr_html_(self) -> str:
        caption = f'<div style="opacity: 0.6; font-size: 12px">{self._summary()}</div>'
        return self.to_html() + caption

    def to_html(self) -> str:
        """The tokens alone, as one block without script or style sheet."""
        spans = [_span(i, piece) for i, piece in enumerate(self.pieces[:MAX_SHOWN])]
        return f'<div dir="ltr" style="{BLOCK_STYLE}">{"".join(spans)}{self._rest()}</div>'

    def _rest(self) -> str:
        if self.of_characters is not None:
            return " ... and more tokens"
        hidden = len(self.pieces) - MAX_SHOWN
        return f" ... and {hidden:,} more tokens" if hidden > 0 else ""

    def _summary(self) -> str:
        size = sum(len(piece.bytes) for piece in self.pieces)
        words = f"{len(self.pieces):,} token{'' if len(self.pieces) == 1 else 's'}, {size:,} bytes"
        if self.of_characters is not None:
            words = f"the first {words} of a text of {self.of_characters:,} characters"
        return f"{words}, {size / len(self.pieces):.2f} bytes a token" if self.pieces else words


def view_text(core: _core.Tokenizer, text: str, allowed: list[str] | None) -> TokenView:
    """The tokens of ``text``, in which ``allowed`` names control tokens; the first of them if it is long."""
    ids = _first_ids(core, text, allowed)
    if len(text) <= LONG_CHARACTERS or len(ids) <= MAX_SHOWN:
        return view_tokens(core, ids)
    return TokenView(view_tokens(core, ids[:MAX_SHOWN]).pieces, len(text))


def _first_ids(core: _core.Tokenizer, text: str, allowed: list[str] | None) -> NDArray[np.uint32]:
    """The ids of ``text``, or more than are shown of them."""
    length = LONG_CHARACTERS
    while length < len(text):
        start = text[:length]
        known = core.cut_of_start(start, allowed)
        if known is not None:
            ids = core.encode(start[:known], allowed)
            if len(ids) > MAX_SHOWN:
                return ids
        length *= 4
    return core.encode(text, allowed)


def view_tokens(core: _core.Tokenizer, ids: Ids) -> TokenView:
    """What ``ids`` stand for.

    Raises
    ------
    TokenizerError
        An id is not in the vocabulary.
    """
    checked = as_ids(ids)
    core.decode_bytes(checked)  # raises for an id that is not there
    specials = {token_id for _, token_id in core.special_tokens()}
    return TokenView(
        tuple(TokenPiece(i, core.id_to_bytes(i) or b"", i in specials) for i in map(int, checked))
    )


def _visible(data: bytes) -> Iterator[tuple[Kind, str]]:
    """The characters of ``data``, each as it is or as what stands for it."""
    for char in data.decode("utf-8", "surrogateescape"):
        if char == " ":
            yield "mark", "·"
        elif char == "\n":
            yield "mark", "↵\n"
        elif char == "\r":
            yield "mark", "␍"
        elif char == "\t":
            yield "mark", "→"
        elif "\udc80" <= char <= "\udcff":
            yield "escape", f"⟨{ord(char) - 0xDC00:02x}⟩"
        elif char not in JOINERS and (unicodedata.category(char)[0] in "CZ"):
            yield "escape", f"⟨U+{ord(char):04X}⟩"
        else:
            yield "text", char


def _span(index: int, piece: TokenPiece) -> str:
    tint = TINTS[index % len(TINTS)]
    outline = f" outline: 1px solid rgba({tint}, 0.9); outline-offset: -1px;" if piece.special else ""
    style = f"background: rgba({tint}, 0.26); border-radius: 3px; unicode-bidi: isolate;{outline}"
    kind = "special token" if piece.special else "token"
    title = f"{kind} {piece.id}, bytes {piece.bytes[:32].hex(' ')}{' ...' if len(piece.bytes) > 32 else ''}"
    body = "".join(_marked(kind, shown) for kind, shown in _visible(piece.bytes))
    return f'<span style="{style}" title="{title}">{body}</span>'


def _marked(kind: Kind, shown: str) -> str:
    if kind == "text":
        return html.escape(shown)
    size = "" if kind == "mark" else " font-size: 0.8em;"
    return f'<span style="opacity: 0.5;{size}">{shown}</span>'
