"""RMSNorm's backward kernel behind experts, for Hopper in Gluon: it sums the rows that they hand back.

A program stays and keeps a partial gradient of the weight in registers. Without experts it has too little
under way, and ``norm_triton``'s, which fetches ahead, is faster.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment, var-annotated"
# Device code: a kernel's arguments have no Python types, and a tuple that grows has many.

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from .. import registry
from ..gemm.tiles_gluon import anew
from ..quantize.words_gluon import high, low, pair, total
from .rows_gluon import (
    WARP_COLUMNS,
    Tile,
    columns_of,
    load,
    load_weight,
    over_columns,
    quads_layout,
    registers_for,
    store,
    store_quantized,
)

CHUNKS = 4
"""Of a row in a warp at most, whose registers also keep as much of the weight's gradient."""


@gluon.jit
def _numbers(x):
    """Four columns in float32."""
    return low(x[0]), high(x[0]), low(x[1]), high(x[1])


@gluon.jit
def _again(x):
    """The same words, of which nothing is computed yet: to do so again costs less than registers."""
    return anew(x[0]), anew(x[1])


@gluon.jit
def _of_choices(sums, rows_ptr, pos_ptr, m, column, inside, M, Q, CHOICES: gl.constexpr):
    """The sums, and the rows of each token's choices."""
    a, b, c, d = sums
    for choice in gl.static_range(CHOICES):
        place = gl.load(pos_ptr + m * CHOICES + choice, mask=m < M, other=-1).to(gl.int64)
        row = over_columns(place)
        x = load(rows_ptr, row * Q + column, inside & (row >= 0))
        a, b, c, d = a + low(x[0]), b + high(x[0]), c + low(x[1]), d + high(x[1])
    return pair(a, b), pair(c, d)


@gluon.jit
def rms_norm_backward_kernel(
    dy_ptr, more_ptr, rows_ptr, pos_ptr, x_ptr, w_ptr, r_ptr, dsum_ptr, dx_ptr, dw_ptr, q_ptr, s_ptr,
    M, Q, x_stride, s_stride, K,
    ADD: gl.constexpr, FIRST: gl.constexpr, JOIN: gl.constexpr, CHOICES: gl.constexpr, QUANTIZE: gl.constexpr,
    ROWS: gl.constexpr, ACROSS: gl.constexpr, CHUNKS: gl.constexpr, EVEN: gl.constexpr,
):  # fmt: skip
    """As ``norm_triton._rms_norm_backward``, of K tiles of rows of Q elements of four columns.

    The gradient of the norm comes in two parts: FIRST, and the rows of each token's choices, with what else
    is added to them if JOIN. Each sum is rounded as it would be in memory.
    """
    QUADS: gl.constexpr = quads_layout(ROWS, ACROSS, gl.num_warps())
    column = columns_of(ROWS, ACROSS)
    ws = ()
    dws = ()
    for i in gl.static_range(CHUNKS):
        ws += (load_weight(w_ptr, i, Q * 4, ROWS, ACROSS, EVEN),)
        for _ in gl.static_range(4):
            dws += (gl.zeros([ROWS, 2 * ACROSS, 32], gl.float32, QUADS),)
    for tile in range(gl.program_id(0), K, gl.num_programs(0)):
        first = gl.to_tensor(tile).to(gl.int64) * ROWS
        m = first + gl.arange(0, ROWS, gl.SliceLayout(1, gl.SliceLayout(2, QUADS)))
        row = over_columns(m)
        xs = ()
        dys = ()
        dsums = ()
        for i in gl.static_range(CHUNKS):
            k = column + i * ACROSS * 64
            inside = (row < M) & (k < Q)
            xs += (load(x_ptr, row * x_stride + k, inside),)
            dy = gl.zeros_like(xs[i][0]), gl.zeros_like(xs[i][0])
            if JOIN:
                dy = load(more_ptr, row * Q + k, inside)
            dy = _of_choices(_numbers(dy), rows_ptr, pos_ptr, m, k, inside, M, Q, CHOICES)
            if FIRST:
                own = load(dy_ptr, row * Q + k, inside)
                dy = total(dy[0], own[0]), total(dy[1], own[1])
            dys += (dy,)
            if ADD:
                dsums += (load(dsum_ptr, row * Q + k, inside),)
        r = gl.load(r_ptr + m, mask=m < M, other=0.0)
        across = over_columns(r)
        dots = gl.zeros([ROWS, 2 * ACROSS, 32], gl.float32, QUADS)
        new = ()
        for i in gl.static_range(CHUNKS):
            x, dy, w = _numbers(_again(xs[i])), _numbers(_again(dys[i])), _numbers(_again(ws[i]))
            for j in gl.static_range(4):
                normal = x[j] * across
                new += (gl.fma(dy[j], normal, dws[4 * i + j]),)
                dots = gl.fma(dy[j] * w[j], normal, dots)
        dws = new
        mean = over_columns(gl.sum(gl.sum(dots, 2), 1) / (Q * 4))
        dxs = ()
        for i in gl.static_range(CHUNKS):
            k = column + i * ACROSS * 64
            inside = (row < M) & (k < Q)
            x, dy, w = _numbers(_again(xs[i])), _numbers(_again(dys[i])), _numbers(_again(ws[i]))
            dx = ()
            for j in gl.static_range(4):
                number = (dy[j] * w[j] - x[j] * across * mean) * across
                if ADD:
                    number += _numbers(dsums[i])[j]
                dx += (number,)
            words = pair(dx[0], dx[1]), pair(dx[2], dx[3])  # type: ignore[misc]
            store(dx_ptr, row * Q + k, words, inside)
            dxs += (words,)
        if QUANTIZE:
            store_quantized(q_ptr, s_ptr, dxs, first, M, Q, s_stride, ROWS, ACROSS)
    out = dw_ptr + gl.program_id(0).to(gl.int64) * Q * 4
    for i in gl.static_range(CHUNKS):
        for j in gl.static_range(4):
            dw = gl.expand_dims(gl.sum(dws[4 * i + j], 0), 0)
            k = gl.convert_layout(column + i * ACROSS * 64, dw.type.layout)
            gl.store(out + k * 4 + j, dw, mask=k < Q)


def tile_for(size: int) -> Tile:
    """Four warps, each with a row or a part of one; eight for the widest rows."""
    across = triton.next_power_of_2(triton.cdiv(size, CHUNKS * WARP_COLUMNS))
    return Tile(max(1, 4 // across), across, triton.cdiv(size, across * WARP_COLUMNS))


def resident_warps(tile: Tile, size: int) -> int:
    """How many fit on a multiprocessor: twelve if they spill one register of a thread at most, else eight.

    Masks of columns that are no multiple of 64 cost registers.
    """
    fit = tile.CHUNKS <= 2 or (tile.CHUNKS == 3 and size % 64 == 0)
    return 12 if fit and tile.ROWS * tile.ACROSS == 4 else 8


def backward(
    dsum: Tensor | None, dy: Tensor | None, more: Tensor | None, chosen: Tensor, token_pos: Tensor,
    rows: Tensor, w: Tensor, r: Tensor, out: Sequence[Tensor],
) -> Tensor:  # fmt: skip
    """See ``norm_triton.backward``; of operands that ``rows_gluon.fits``."""
    dx, data, scale = out
    tile = tile_for(rows.shape[1])
    warps, resident = tile.ROWS * tile.ACROSS, resident_warps(tile, rows.shape[1])
    # Scales are written beyond the last row too.
    tiles = triton.cdiv(max(rows.shape[0], scale.shape[1]), tile.ROWS)
    programs = min(tiles, registry.multiprocessors(dx.device) * (resident // warps))
    partial = torch.empty(programs, rows.shape[1], dtype=torch.float32, device=dx.device)
    dsum_, dy_, more_ = (dx if x is None else x.view(torch.int64) for x in (dsum, dy, more))
    rms_norm_backward_kernel[(programs,)](
        dy_, more_, chosen.view(torch.int64), token_pos, rows.view(torch.int64), w, r, dsum_,
        dx.view(torch.int64), partial, data.view(torch.int32) if data.numel() else data, scale,
        rows.shape[0], rows.shape[1] // 4, rows.stride(0) // 4, scale.shape[1], tiles,
        ADD=dsum is not None, FIRST=dy is not None, JOIN=more is not None,
        CHOICES=token_pos.shape[1], QUANTIZE=data.numel() > 0,
        **tile._asdict(), EVEN=tile.is_even(rows.shape[1]),
        num_warps=warps, maxnreg=registers_for(resident),
    )  # fmt: skip
    return partial.sum(0)
