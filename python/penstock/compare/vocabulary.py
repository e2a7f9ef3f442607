"""What of a vocabulary a corpus uses, and what no text can."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock.compare.figures import VocabularyUse
from penstock.token_view import TokenPiece
from penstock.tokenizer import Tokenizer

__all__ = ["vocabulary_use"]

SHOWN = 10


def vocabulary_use(tokenizer: Tokenizer, counts: NDArray[np.int64]) -> VocabularyUse:
    """Parameters
    ----------
    counts
        How often each id turned up.
    """
    special = set(tokenizer.special_tokens.values())
    pieces = [
        TokenPiece(i, token)
        for i in range(tokenizer.vocab_size)
        if i not in special and (token := tokenizer.id_to_bytes(i))
    ]
    unused = [piece for piece in pieces if counts[piece.id] == 0]
    longest = sorted(pieces, key=lambda piece: (-len(piece.bytes), piece.id))[:SHOWN]
    unreachable, partial = _unreachable(tokenizer, pieces)
    return VocabularyUse(
        tokens=len(pieces),
        used=len(pieces) - len(unused),
        never_used=tuple([piece for piece in unused if len(piece.bytes) > 1][:SHOWN]),
        longest=tuple((piece, int(counts[piece.id])) for piece in longest),
        unreachable=len(unreachable),
        unreachable_examples=tuple(unreachable[:SHOWN]),
        partial=partial,
    )


def _unreachable(tokenizer: Tokenizer, pieces: list[TokenPiece]) -> tuple[list[TokenPiece], int]:
    """Tokens that encoding their own text does not give back, and how many are no text of their own."""
    whole, texts = [], []
    for piece in pieces:
        try:
            texts.append(piece.bytes.decode())
        except UnicodeDecodeError:
            continue
        whole.append(piece)
    batch = tokenizer.encode_batch(texts)
    # Nothing is special here: a token may spell a control token's string and is then ordinary text.
    missed = [
        piece for piece, ids in zip(whole, batch, strict=True) if len(ids) != 1 or int(ids[0]) != piece.id
    ]
    return missed, len(pieces) - len(whole)
