"""RMSNorm in Triton, and the sums before it: everything is read once in either direction.

A program handles tiles of several rows, so that enough reads are under way; statistics are float32.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"
# Device code: a kernel's arguments have no Python types, and a tuple that grows has many.

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import registry
from ..quantize.quantize_triton import cast_tiles
from ..types import BLOCK

WARPS_PER_MULTIPROCESSOR = 16
"""Of the backward kernel, whose programs stay and keep a partial gradient of the weight each."""
WARP_COLUMNS = 256
"""Of one row in a warp: eight a thread, which are 16 bytes of bfloat16."""
MOST_CHUNKS = 3
"""Of a row in a thread of the forward kernel, while eight warps are enough. On an H100, 1280 columns: 0.86 of
copy with three chunks, quantised and without a sum, with five 0.84, padded to 2048 columns 0.76."""
ELEMENTS = 32
"""Of one operand's tile, in a thread of the backward kernel. On an H100, 1280 columns and a residual sum:
0.95 of copy, with 16 elements and 24 warps 0.71. Half of them where it may quantise: registers are scarce."""


@triton.jit
def _load(ptr, row_stride, m, real, D, COLUMNS: tl.constexpr, CHUNKS: tl.constexpr):
    """Whole rows in chunks of columns: a thread has the same columns of each, and none of its lanes is idle
    but in the last. Rows padded to a power of two would waste three lanes of eight where D is 1280.
    """
    chunks = ()
    for i in tl.static_range(CHUNKS):
        d = i * COLUMNS + tl.arange(0, COLUMNS)
        inside = real[:, None] & (d < D)[None, :]
        chunks += (tl.load(ptr + m[:, None] * row_stride + d[None, :], mask=inside, other=0.0),)
    return chunks


@triton.jit
def _combine(
    delta_ptr, rows_ptr, p_ptr, pos_ptr, m, M, D,
    EXTRA: tl.constexpr, CHOICES: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """As ``permute_triton._gather_sum``: the weighted rows of each token's choices, plus delta if EXTRA."""
    totals = ()
    if EXTRA:
        totals = _load(delta_ptr, D, m, m < M, D, COLUMNS, CHUNKS)
    else:
        for _ in tl.static_range(CHUNKS):
            totals += (tl.zeros((ROWS, COLUMNS), tl.float32),)
    for choice in tl.static_range(CHOICES):
        row = tl.load(pos_ptr + m * CHOICES + choice, mask=m < M, other=-1).to(tl.int64)
        p = tl.load(p_ptr + m * CHOICES + choice, mask=m < M, other=0.0).to(tl.float32)
        chosen = _load(rows_ptr, D, row, row >= 0, D, COLUMNS, CHUNKS)
        sums = ()
        for i in tl.static_range(CHUNKS):
            sums += (totals[i].to(tl.float32) + chosen[i].to(tl.float32) * p[:, None],)
        totals = sums
    return totals


@triton.jit
def _store(ptr, x, chunk, m, M, D, COLUMNS: tl.constexpr):
    d = chunk * COLUMNS + tl.arange(0, COLUMNS)
    inside = (m < M)[:, None] & (d < D)[None, :]
    # Eight of them a thread, which has as many columns: for bytes the whole kernel would take sixteen.
    at = tl.max_contiguous(m[:, None] * D + d[None, :], (1, 8))
    tl.store(ptr + at, x, mask=inside)


@triton.jit
def _store_quantized(q_ptr, s_ptr, x, chunk, m, M, D, s_stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Bytes and scales, as ``quantize_rows`` makes them of what is stored of x."""
    q, scale = cast_tiles(tl.reshape(x.to(tl.float32), (ROWS, COLUMNS // 128, 128)))
    _store(q_ptr, tl.reshape(q, (ROWS, COLUMNS)), chunk, m, M, D, COLUMNS)
    block = chunk * (COLUMNS // 128) + tl.arange(0, COLUMNS // 128)
    kept = (m < s_stride)[:, None] & (block < tl.cdiv(D, 128))[None, :]
    tl.store(s_ptr + block[None, :] * s_stride + m[:, None], scale, mask=kept)


@triton.jit
def _weight(w_ptr, chunk, D, dtype: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The weight in the dtype of what it multiplies; each thread reads its own columns of it."""
    d = (chunk * COLUMNS + tl.arange(0, COLUMNS))[None, :] + tl.zeros((ROWS, 1), tl.int32)
    return tl.load(w_ptr + d, mask=d < D, other=0.0).to(dtype).to(tl.float32)


@triton.jit
def _rms_norm_forward(
    x_ptr, delta_ptr, rows_ptr, p_ptr, pos_ptr, w_ptr, sum_ptr, y_ptr, r_ptr, q_ptr, s_ptr,
    M, D, x_stride, s_stride, eps,
    ADD: tl.constexpr, CHOICES: tl.constexpr, KEEP: tl.constexpr, QUANTIZE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """The norm of x, or of x + delta rounded as ``sum`` holds it; stored as it is, or quantised, or both.

    With CHOICES, delta is that of ``_combine``, which adds what is given as delta if ADD.
    """
    m = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    xs = _load(x_ptr, x_stride, m, m < M, D, COLUMNS, CHUNKS)
    if ADD or CHOICES > 0:
        if CHOICES > 0:
            # fmt: off
            deltas = _combine(delta_ptr, rows_ptr, p_ptr, pos_ptr, m, M, D,
                              ADD, CHOICES, ROWS, COLUMNS, CHUNKS)
            # fmt: on
        else:
            deltas = _load(delta_ptr, D, m, m < M, D, COLUMNS, CHUNKS)
        totals = ()
        for i in tl.static_range(CHUNKS):
            # What is combined is rounded as it would be in memory.
            delta = deltas[i].to(rows_ptr.dtype.element_ty).to(dtype).to(tl.float32)
            total = (xs[i].to(tl.float32) + delta).to(dtype)
            _store(sum_ptr, total, i, m, M, D, COLUMNS)
            totals += (total,)
        xs = totals
    squares = tl.zeros((ROWS, COLUMNS), tl.float32)
    for i in tl.static_range(CHUNKS):
        x = xs[i].to(tl.float32)
        squares += x * x
    r = tl.rsqrt(tl.sum(squares, 1) / D + eps)
    tl.store(r_ptr + m, r, mask=m < M)
    for i in tl.static_range(CHUNKS):
        normal = (xs[i].to(tl.float32) * r[:, None]).to(dtype).to(tl.float32)
        y = (normal * _weight(w_ptr, i, D, dtype, ROWS, COLUMNS)).to(dtype)
        if KEEP:
            _store(y_ptr, y, i, m, M, D, COLUMNS)
        if QUANTIZE:
            _store_quantized(q_ptr, s_ptr, y, i, m, M, D, s_stride, ROWS, COLUMNS)


@triton.jit
def _rms_norm_backward(
    dy_ptr, more_ptr, x_ptr, w_ptr, r_ptr, dsum_ptr, dx_ptr, dw_ptr, q_ptr, s_ptr,
    M, D, x_stride, s_stride,
    ADD: tl.constexpr, JOIN: tl.constexpr, QUANTIZE: tl.constexpr, ROWS: tl.constexpr, BD: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Gradient of what was normed, plus what else flows into it; and a partial gradient of the weight.

    If JOIN, the gradient of the norm comes in two parts, whose sum is rounded as it would be in memory.
    """
    d = tl.arange(0, BD)
    w = tl.load(w_ptr + d, mask=d < D, other=0.0).to(x_ptr.dtype.element_ty).to(tl.float32)
    dw = tl.zeros((BD,), tl.float32)
    tiles = tl.cdiv(s_stride, ROWS)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=STAGES):
        m = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = (m < M)[:, None] & (d < D)[None, :]
        at = m[:, None] * D + d[None, :]
        x = tl.load(x_ptr + m[:, None] * x_stride + d[None, :], mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if JOIN:
            dy += tl.load(more_ptr + at, mask=inside, other=0.0).to(tl.float32)
            dy = dy.to(dx_ptr.dtype.element_ty).to(tl.float32)
        normal = x * tl.load(r_ptr + m, mask=m < M, other=0.0)[:, None]
        dw += tl.sum(dy * normal, 0)
        g = dy * w[None, :]
        dx = g - normal * (tl.sum(g * normal, 1) / D)[:, None]
        dx *= tl.load(r_ptr + m, mask=m < M, other=0.0)[:, None]
        if ADD:
            dx += tl.load(dsum_ptr + at, mask=inside, other=0.0).to(tl.float32)
        dx = dx.to(dx_ptr.dtype.element_ty)
        tl.store(dx_ptr + at, dx, mask=inside)
        if QUANTIZE:
            _store_quantized(q_ptr, s_ptr, dx, 0, m, M, D, s_stride, ROWS, BD)
    tl.store(dw_ptr + tl.program_id(0).to(tl.int64) * D + d, dw, mask=d < D)


def forward(
    rows: Tensor, delta: Tensor | None, due: Sequence[Tensor], w: Tensor, eps: float, out: Sequence[Tensor]
) -> None:
    """The norm of ``rows`` [M, D], or of their sum with ``delta`` and what is ``due``: nothing, or the parts
    of a Combination.

    ``out``: the norm, the factor of each row, the sum, bytes and scales; of the norm, the sum and the bytes
    those that have elements are written.
    """
    y, r, total, data, scale = out
    size, tile = rows.shape[1], tile_for(rows.shape[1])
    chosen, p, position = due or (rows, r, r)
    # Scales are written beyond the last row too.
    count = max(rows.shape[0], scale.shape[1])
    _rms_norm_forward[(triton.cdiv(count, tile.rows),)](
        rows, rows if delta is None else delta, chosen, p, position, w, total, y, r, data, scale,
        rows.shape[0], size, rows.stride(0), count, eps,
        ADD=delta is not None, CHOICES=position.shape[1] if due else 0, KEEP=y.numel() > 0,
        QUANTIZE=data.numel() > 0,
        ROWS=tile.rows, COLUMNS=tile.columns, CHUNKS=tile.chunks, num_warps=tile.warps,
    )  # fmt: skip


def backward(
    dsum: Tensor | None, dy: Tensor, more: Tensor | None, rows: Tensor, w: Tensor, r: Tensor,
    narrow: bool, out: Sequence[Tensor],
) -> Tensor:  # fmt: skip
    """Write the gradient of what was normed, and of it, if they have elements, bytes and scales. ``narrow``:
    see ``backward_tile_for``; the others: ``autograd._add_rms_norm_backward``.

    Returns
    -------
    float32 [D], the gradient of the weight.
    """
    dx, data, scale = out
    size = rows.shape[1]
    tile, block, warps, stages = backward_tile_for(size, narrow)
    # Scales are written beyond the last row too.
    count = max(rows.shape[0], scale.shape[1])
    resident = registry.multiprocessors(dx.device) * (WARPS_PER_MULTIPROCESSOR // warps)
    programs = min(triton.cdiv(count, tile), resident)
    partial = torch.empty(programs, size, dtype=torch.float32, device=dx.device)
    joined, added = (dy if part is None else part for part in (more, dsum))
    _rms_norm_backward[(programs,)](
        dy, joined, rows, w, r, added, dx, partial, data, scale,
        rows.shape[0], size, rows.stride(0), count, ADD=dsum is not None, JOIN=more is not None,
        QUANTIZE=data.numel() > 0, ROWS=tile, BD=block, STAGES=stages, num_warps=warps,
    )  # fmt: skip
    return partial.sum(0)


class Tile(NamedTuple):
    """Rows of the forward kernel's program, each in ``chunks`` of ``columns``."""

    rows: int
    columns: int
    chunks: int
    warps: int


def tile_for(size: int) -> Tile:
    """Eight columns a thread and chunk, and at least four warps, each on one row or a part of one."""
    across = min(8, triton.next_power_of_2(triton.cdiv(size, MOST_CHUNKS * WARP_COLUMNS)))
    warps = max(4, across)
    columns = across * WARP_COLUMNS
    return Tile(warps // across, columns, triton.cdiv(size, columns), warps)


def backward_tile_for(size: int, narrow: bool) -> tuple[int, int, int, int]:
    """Rows and columns of the backward kernel's tile, warps, and how many tiles of a program are under way.

    ``narrow`` leaves registers to quantise with.
    """
    block = max(BLOCK, triton.next_power_of_2(size))
    warps = min(16, max(1, block // WARP_COLUMNS))
    rows = max(1, ELEMENTS * 32 * warps // block)
    # Wide rows leave a thread more than eight columns, and backward fewer registers.
    wide = block > 4096
    stages = 2 if wide or not narrow else 4 if block > 512 else 3
    return max(1, rows // 2 if wide or narrow else rows), block, warps, stages
