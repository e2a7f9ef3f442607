"""Casts to E4M3 in Triton: bytes and scales equal ``reference``'s exactly. A program handles one tile."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..arguments import FP8
from ..types import BLOCK, RowQ, TokQ, WeightQ

LARGEST = tl.constexpr(3.4028234663852886e38)
SMALLEST_SCALE = tl.constexpr(2.0**-126)

ROW_TILE = (8, 256)
"""Rows and columns a program of ``quantize_rows`` handles: 0.98 of copy speed on H200."""
TOKEN_TILE_COLUMNS = 32
"""Features a program of ``quantize_tokens`` handles: fewer leave more programs at work."""


@triton.jit
def magnitude(x):
    """|x|, zero where x is not finite."""
    return tl.where(tl.abs(x) <= LARGEST, tl.abs(x), 0.0)


@triton.jit
def power_of_two_scale(amax):
    """The smallest power of two that brings amax to at most 448 = 1.75 * 2**8, never below 2**-126."""
    exponent = ((amax.to(tl.int32, bitcast=True) + 0x1FFFFF) >> 23) - 8
    return (tl.maximum(exponent, 1) << 23).to(tl.float32, bitcast=True)


@triton.jit
def cast(x, scale):
    """x / scale in E4M3, NaN where x is not finite; ``scale`` is broadcast."""
    inverse = ((254 << 23) - scale.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)
    return tl.where(tl.abs(x) <= LARGEST, x * inverse, float("nan")).to(tl.float8e4nv)


@triton.jit
def shift(q, scale, largest):
    """Bytes at ``scale`` as bytes at ``largest``, both powers of two; half precision holds every step."""
    # Bit patterns of powers of two subtract like exponents; beyond 24 every byte is zero anyway.
    drop = (largest.to(tl.int32, bitcast=True) - scale.to(tl.int32, bitcast=True)) >> 23
    factor = ((127 - tl.minimum(drop, 24)) << 23).to(tl.float32, bitcast=True).to(tl.float16)
    return (q.to(tl.float16) * factor).to(tl.float8e4nv)


@triton.jit
def _quantize_rows(x_ptr, q_ptr, s_ptr, M, K, s_stride, BM: tl.constexpr, BK: tl.constexpr):
    columns = tl.cdiv(K, BK)
    m = (tl.program_id(0) // columns).to(tl.int64) * BM + tl.arange(0, BM)
    k = (tl.program_id(0) % columns) * BK + tl.arange(0, BK)
    inside = (m < M)[:, None] & (k < K)[None, :]
    at = m[:, None] * K + k[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tiles = tl.reshape(x, (BM, BK // 128, 128))
    scale = power_of_two_scale(tl.max(magnitude(tiles), 2))
    tl.store(q_ptr + at, tl.reshape(cast(tiles, scale[:, :, None]), (BM, BK)), mask=inside)
    block = (tl.program_id(0) % columns) * (BK // 128) + tl.arange(0, BK // 128)
    kept = (m < s_stride)[:, None] & (block < tl.cdiv(K, 128))[None, :]
    tl.store(s_ptr + block[None, :] * s_stride + m[:, None], scale, mask=kept)


@triton.jit
def _quantize_tokens(x_ptr, q_ptr, s_ptr, M, K, q_stride, s_stride, BK: tl.constexpr):
    columns = tl.cdiv(K, BK)
    block = tl.program_id(0) // columns
    m = block.to(tl.int64) * 128 + tl.arange(0, 128)
    k = (tl.program_id(0) % columns) * BK + tl.arange(0, BK)
    inside = (m < M)[:, None] & (k < K)[None, :]
    x = tl.load(x_ptr + m[:, None] * K + k[None, :], mask=inside, other=0.0).to(tl.float32)
    scale = power_of_two_scale(tl.max(magnitude(x), 0))
    transposed = tl.trans(cast(x, scale[None, :]))
    tl.store(q_ptr + k.to(tl.int64)[:, None] * q_stride + m[None, :], transposed, mask=(k < K)[:, None])
    tl.store(s_ptr + block * s_stride + k, scale, mask=k < s_stride)


@triton.jit
def _quantize_weight(w_ptr, q_ptr, s_ptr, N, K):
    rows = tl.cdiv(N, 128)
    columns = tl.cdiv(K, 128)
    expert = (tl.program_id(0) // (rows * columns)).to(tl.int64)
    tile = tl.program_id(0) % (rows * columns)
    n = tile // columns * 128 + tl.arange(0, 128)
    k = tile % columns * 128 + tl.arange(0, 128)
    inside = (n < N)[:, None] & (k < K)[None, :]
    at = expert * N * K + n.to(tl.int64)[:, None] * K + k[None, :]
    w = tl.load(w_ptr + at, mask=inside, other=0.0).to(tl.float32)
    scale = power_of_two_scale(tl.max(tl.max(magnitude(w), 1), 0))
    tl.store(q_ptr + at, cast(w, scale), mask=inside)
    tl.store(s_ptr + tl.program_id(0), scale)


@triton.jit
def _transpose_weight(q_ptr, t_ptr, N, K):
    """Bytes of [E, N, K] to [E, K, N].

    A transpose inside ``_quantize_weight`` came out wrong on H100 (triton 3.6, float32, sizes % 16 == 0),
    though its PTX is right. Going through float32 gives this one the code of ``_transpose_shift``, which is
    exact there.
    """
    rows = tl.cdiv(N, 128)
    columns = tl.cdiv(K, 128)
    expert = (tl.program_id(0) // (rows * columns)).to(tl.int64)
    tile = tl.program_id(0) % (rows * columns)
    n = tile // columns * 128 + tl.arange(0, 128)
    k = tile % columns * 128 + tl.arange(0, 128)
    at = expert * N * K + n.to(tl.int64)[:, None] * K + k[None, :]
    q = tl.load(q_ptr + at, mask=(n < N)[:, None] & (k < K)[None, :], other=0.0).to(tl.float32)
    at_t = expert * N * K + k.to(tl.int64)[:, None] * N + n[None, :]
    transposed = tl.trans(q.to(tl.float8e4nv))
    tl.store(t_ptr + at_t, transposed, mask=(k < K)[:, None] & (n < N)[None, :])


@triton.jit
def _transpose_shift(
    q_ptr, s_ptr, rows_ptr, t_ptr, ts_ptr, M, K, M_OUT, t_stride, s_stride, GATHER: tl.constexpr
):
    columns = tl.cdiv(K, 128)
    row_block = tl.program_id(0) // columns
    column_block = tl.program_id(0) % columns
    place = row_block.to(tl.int64) * 128 + tl.arange(0, 128)
    k = column_block * 128 + tl.arange(0, 128)
    if GATHER:
        m = tl.load(rows_ptr + place, mask=place < M_OUT, other=-1).to(tl.int64)
    else:
        m = tl.where(place < M, place, -1)
    real = m >= 0
    inside = real[:, None] & (k < K)[None, :]
    q = tl.load(q_ptr + m[:, None] * K + k[None, :], mask=inside, other=0.0)
    scale = tl.load(s_ptr + column_block * s_stride + m, mask=real, other=SMALLEST_SCALE)
    largest = tl.max(scale, 0)
    shifted = tl.trans(shift(q, scale[:, None], largest))
    tl.store(t_ptr + k.to(tl.int64)[:, None] * t_stride + place[None, :], shifted, mask=(k < K)[:, None])
    tl.store(ts_ptr + column_block * (t_stride // 128) + row_block, largest)


def quantize_rows(x: Tensor) -> RowQ:
    """See ``op.quantize_rows``."""
    x = x.contiguous()
    rows, columns = x.shape
    data = torch.empty(x.shape, dtype=FP8, device=x.device)
    scale = x.new_empty((triton.cdiv(columns, BLOCK), _up(rows, 4)), dtype=torch.float32)
    if x.numel():
        grid = (triton.cdiv(scale.shape[1], ROW_TILE[0]) * triton.cdiv(columns, ROW_TILE[1]),)
        _quantize_rows[grid](x, data, scale, rows, columns, scale.shape[1], *ROW_TILE, num_warps=4)
    return RowQ(data, scale)


def quantize_tokens(x: Tensor) -> RowQ:
    """See ``op.quantize_tokens``."""
    x = x.contiguous()
    tokens, features = x.shape
    padded = _up(tokens, BLOCK)
    data = torch.empty((features, padded), dtype=FP8, device=x.device)
    scale = x.new_empty((padded // BLOCK, _up(features, 4)), dtype=torch.float32)
    if x.numel():
        grid = (padded // BLOCK * triton.cdiv(scale.shape[1], TOKEN_TILE_COLUMNS),)
        strides = (padded, scale.shape[1])
        _quantize_tokens[grid](x, data, scale, tokens, features, *strides, BK=TOKEN_TILE_COLUMNS, num_warps=4)
    return RowQ(data, scale)


def quantize_weight(w: Tensor, out: WeightQ) -> None:
    """See ``op.quantize_weight``."""
    programs = (out.scale.numel(),)
    rows, columns = w.shape[-2:]
    _quantize_weight[programs](w, out.data, out.scale, rows, columns, num_warps=8)
    transpose_weight(out)


def transpose_weight(w: WeightQ) -> None:
    """Make ``w.data_t`` of ``w.data``."""
    rows, columns = w.data.shape[-2:]
    _transpose_weight[(w.scale.numel(),)](w.data, w.data_t, rows, columns, num_warps=4)


def transpose_shift(a: RowQ, rows: Tensor | None = None) -> TokQ:
    """See ``op.transpose_shift``."""
    m, k = a.data.shape
    m_out = m if rows is None else rows.shape[0]
    padded = _up(m_out, BLOCK)
    data = torch.empty((k, padded), dtype=FP8, device=a.data.device)
    scale = a.scale.new_empty((triton.cdiv(k, BLOCK), padded // BLOCK))
    if data.numel():
        _transpose_shift[(scale.numel(),)](
            a.data,
            a.scale,
            a.data if rows is None else rows.contiguous(),
            data,
            scale,
            m,
            k,
            m_out,
            padded,
            a.scale.stride(0),
            GATHER=rows is not None,
            num_warps=4,
        )
    return TokQ(data, scale)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
