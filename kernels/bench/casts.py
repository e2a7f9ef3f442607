"""Casts to FP8, and the transpose that keeps the bytes' values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..quantize import (
    dequantize,
    quantize_both,
    quantize_rows,
    quantize_tokens,
    quantize_weight,
    transpose_shift,
)
from ..types import BLOCK, FP8, RowQ, TokQ, WeightQ
from .case import EXACT, Case, Contender, compiled, fast, moving, randn, uneven_groups

_LARGEST = 448.0


def rows_cast(rows: int, columns: int) -> Case:
    """``quantize_rows`` of activations."""
    x = randn(rows, columns)
    return _cast(
        rows * columns, 3 + 4 / BLOCK, lambda: quantize_rows(x), compiled(partial(fast(_plain_rows), x))
    )


def tokens_cast(rows: int, columns: int) -> Case:
    """``quantize_tokens`` of activations."""
    x = randn(rows, columns)
    return _cast(
        rows * columns, 3 + 4 / BLOCK, lambda: quantize_tokens(x), compiled(partial(fast(_plain_tokens), x))
    )


def both_casts(rows: int, columns: int) -> Case:
    """``quantize_both`` of activations."""
    x, elements = randn(rows, columns), rows * columns

    def value() -> Tensor:
        return torch.cat([dequantize(q).flatten() for q in quantize_both(x)])

    moved = elements * (4 + 8 / BLOCK)
    return moving(
        moved, 5.0 * elements, "quantize_both", lambda: quantize_both(x), value, EXACT,
        backends=("gluon", "triton"),
    )  # fmt: skip


def weight_cast(rows: int, columns: int) -> Case:
    """``quantize_weight`` of a float32 master."""
    w = torch.randn(rows, columns)
    return _cast(rows * columns, 6, lambda: quantize_weight(w))


def transpose(rows: int, columns: int) -> Case:
    """``transpose_shift`` of what ``quantize_rows`` wrote."""
    a = quantize_rows(randn(rows, columns))
    return _transposing(2.0 * rows * columns, lambda: transpose_shift(a))


def gathered_transpose(tokens: int, experts: int, k: int, columns: int) -> Case:
    """``transpose_shift`` of the rows that each expert was sent."""
    groups = uneven_groups(tokens * k, experts, k)
    a = quantize_rows(randn(tokens, columns))
    # A row counts each of the k times it is read, though memory sends it once and the L2 cache afterwards.
    # How the goal counts was not written down, but it lies above copy speed. Counted once, as
    # columns * (tokens + groups.n_rows), 0.6 of this, a gather without a transpose is at 0.71 on an H100.
    moved = float(columns * (tokens * k + groups.n_rows))
    return _transposing(moved, partial(transpose_shift, a, groups.row_token))


def _transposing(moved: float, call: Callable[[], TokQ]) -> Case:
    def value() -> Tensor:
        return dequantize(call())

    return moving(moved, moved, "transpose_shift", call, value, EXACT, backends=("gluon", "triton"))


def _cast(
    elements: int, bytes_each: float, call: Callable[[], RowQ | TokQ | WeightQ], *peers: Contender
) -> Case:
    def value() -> Tensor:
        return dequantize(call())

    return moving(elements * bytes_each, 3.0 * elements, "quantize", call, value, EXACT, *peers)


def _plain_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """As other projects write it for ``torch.compile``."""
    tiles = x.float().view(x.shape[0], -1, BLOCK)
    scale = tiles.abs().amax(-1, keepdim=True).clamp_min(1e-12) / _LARGEST
    return (tiles / scale).view(x.shape).to(FP8), scale


def _plain_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    tiles = x.float().view(-1, BLOCK, x.shape[1])
    scale = tiles.abs().amax(1, keepdim=True).clamp_min(1e-12) / _LARGEST
    data: Tensor = (tiles / scale).view(x.shape).to(FP8)
    return data.t().contiguous(), scale
