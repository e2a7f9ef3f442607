"""Casts to E4M3 in Triton: bytes and scales equal ``reference``'s exactly. A program handles one tile.

``POWER`` says whether scales are powers of two.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ..types import BLOCK, RowQ, TokQ, WeightQ, empty_rows, empty_tokens

SMALLEST_SCALE = tl.constexpr(2.0**-126)

ROW_TILE = (8, 256)
"""Rows and columns a program of ``quantize_rows`` handles: 0.98 of copy speed on H200."""
TOKEN_TILE_COLUMNS = 64
"""Features a program of ``quantize_tokens`` handles: 0.95 of copy speed or more on H100, 32 0.91."""
BOTH_WARPS = {True: 8, False: 16}
"""Of ``quantize_both``, whose tile must fit into their registers. With 8 two programs share a multiprocessor
and rows go out by 16 bytes a thread; divisions, where scales are no powers of two, need more registers."""


@triton.jit
def finite(x):
    """x, NaN where it is not finite. Maxima below pass over NaN."""
    return tl.fma(x, 0.0, x)


@triton.jit
def power_of_two_scale(amax):
    """As ``scale_of``, the smallest power of two: 448 is 1.75 * 2**8."""
    amax = tl.where(amax > 0, amax, 0.0)
    exponent = ((amax.to(tl.int32, bitcast=True) + 0x1FFFFF) >> 23) - 8
    return (tl.maximum(exponent, 1) << 23).to(tl.float32, bitcast=True)


@triton.jit
def reciprocal(scale):
    """1 / scale for a power of two, exactly."""
    return ((254 << 23) - scale.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)


@triton.jit
def scale_of(amax, POWER: tl.constexpr):
    """What brings amax to at most 448, never below 2**-126; amax of nothing but NaN counts as zero."""
    if POWER:
        scale = power_of_two_scale(amax)
    else:
        scale = tl.maximum(tl.math.div_rn(tl.where(amax > 0, amax, 0.0), 448.0), SMALLEST_SCALE)
    return scale


@triton.jit
def divided(x, scale, POWER: tl.constexpr):
    """x / scale, rounded as IEEE says."""
    if POWER:
        quotient = x * reciprocal(scale)
    else:
        quotient = tl.math.div_rn(x, scale)
    return quotient


@triton.jit
def cast_tiles(x, POWER: tl.constexpr = True):
    """Bytes and scales of x, one scale for all elements along the last dimension."""
    x = finite(x)
    scale = scale_of(tl.max(tl.abs(x), -1), POWER)
    return divided(x, tl.expand_dims(scale, -1), POWER).to(tl.float8e4nv), scale


@triton.jit
def shift(q, scale, largest):
    """Bytes [R, K] at ``scale`` of each row, brought to ``largest``; half precision holds every step."""
    # Bit patterns of powers of two subtract like exponents; beyond 24 every byte is zero anyway.
    drop = (largest.to(tl.int32, bitcast=True) - scale.to(tl.int32, bitcast=True)) >> 23
    factor = ((127 - tl.minimum(drop, 24)) << 23).to(tl.float32, bitcast=True).to(tl.float16)
    return q.to(tl.float16) * factor[:, None]


@triton.jit
def interleaved(a, b, c, d):
    """[..., 2, 2] of four [...]: in order a, b, c, d."""
    return tl.join(tl.join(a, c), tl.join(b, d))


@triton.jit
def transposed_bytes(a, b, c, d):
    """E4M3 [K, 4 * R] of four [R, K], which hold rows 0, 4, 8, ..., rows 1, 5, 9, ... and so on.

    A thread then has four rows of a column, and they go through shared memory as one word. One by one, bytes
    would take four times as many stores, which meet in the same banks.
    """
    columns = tl.permute(interleaved(a, b, c, d), (1, 0, 2, 3))
    return tl.reshape(columns, (columns.shape[0], 4 * columns.shape[1])).to(tl.float8e4nv)


@triton.jit
def _quantize_rows(
    x_ptr, q_ptr, s_ptr, M, K, s_stride, POWER: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr
):
    columns = tl.cdiv(K, BK)
    m = (tl.program_id(0) // columns).to(tl.int64) * BM + tl.arange(0, BM)
    k = (tl.program_id(0) % columns) * BK + tl.arange(0, BK)
    inside = (m < M)[:, None] & (k < K)[None, :]
    at = m[:, None] * K + k[None, :]
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    q, scale = cast_tiles(tl.reshape(x, (BM, BK // 128, 128)), POWER)
    tl.store(q_ptr + at, tl.reshape(q, (BM, BK)), mask=inside)
    block = (tl.program_id(0) % columns) * (BK // 128) + tl.arange(0, BK // 128)
    kept = (m < s_stride)[:, None] & (block < tl.cdiv(K, 128))[None, :]
    tl.store(s_ptr + block[None, :] * s_stride + m[:, None], scale, mask=kept)


@triton.jit
def _load(x_ptr, m, k, M, K):
    inside = (m < M)[:, None] & (k < K)[None, :]
    return tl.load(x_ptr + m[:, None] * K + k[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def cast_columns(a, b, c, d, POWER: tl.constexpr):
    """Bytes [K, 128] and scales [K] of 128 rows transposed; they come as ``transposed_bytes`` wants them."""
    a, b, c, d = finite(a), finite(b), finite(c), finite(d)
    top = tl.maximum(tl.maximum(tl.abs(a), tl.abs(b)), tl.maximum(tl.abs(c), tl.abs(d)))
    scale = scale_of(tl.max(top, 0), POWER)
    by = scale[None, :]
    a, b, c, d = divided(a, by, POWER), divided(b, by, POWER), divided(c, by, POWER), divided(d, by, POWER)
    return transposed_bytes(a, b, c, d), scale


@triton.jit
def _quantize_tokens(x_ptr, q_ptr, s_ptr, M, K, q_stride, s_stride, POWER: tl.constexpr, BK: tl.constexpr):
    columns = tl.cdiv(K, BK)
    block = tl.program_id(0) // columns
    m = block.to(tl.int64) * 128 + tl.arange(0, 32) * 4
    k = (tl.program_id(0) % columns) * BK + tl.arange(0, BK)
    a = _load(x_ptr, m, k, M, K)
    b = _load(x_ptr, m + 1, k, M, K)
    c = _load(x_ptr, m + 2, k, M, K)
    d = _load(x_ptr, m + 3, k, M, K)
    _store_columns(a, b, c, d, q_ptr, s_ptr, block, k, K, q_stride, s_stride, POWER)


@triton.jit
def _store_columns(a, b, c, d, q_ptr, s_ptr, block, k, K, q_stride, s_stride, POWER: tl.constexpr):
    q, scale = cast_columns(a, b, c, d, POWER)
    at = k.to(tl.int64)[:, None] * q_stride + block.to(tl.int64) * 128 + tl.arange(0, 128)[None, :]
    tl.store(q_ptr + at, q, mask=(k < K)[:, None])
    tl.store(s_ptr + block * s_stride + k, scale, mask=k < s_stride)


@triton.jit
def _store_rows(x, q_ptr, m, k, M, K, POWER: tl.constexpr):
    q, scale = cast_tiles(x, POWER)
    tl.store(q_ptr + m[:, None] * K + k[None, :], q, mask=(m < M)[:, None] & (k < K)[None, :])
    return scale


@triton.jit
def _quantize_both(
    x_ptr, q_ptr, s_ptr, t_ptr, ts_ptr, M, K, s_stride, t_stride, ts_stride, POWER: tl.constexpr
):
    """A tile of 128x128 by rows and by columns.

    Programs that follow one another go down the rows of a block of columns, as in ``_transpose_shift``.
    """
    row_blocks = t_stride // 128
    column_block = tl.program_id(0) // row_blocks
    row_block = tl.program_id(0) % row_blocks
    m = row_block.to(tl.int64) * 128 + tl.arange(0, 32) * 4
    k = column_block * 128 + tl.arange(0, 128)
    a = _load(x_ptr, m, k, M, K)
    b = _load(x_ptr, m + 1, k, M, K)
    c = _load(x_ptr, m + 2, k, M, K)
    d = _load(x_ptr, m + 3, k, M, K)
    scale_a = _store_rows(a, q_ptr, m, k, M, K, POWER)
    scale_b = _store_rows(b, q_ptr, m + 1, k, M, K, POWER)
    scale_c = _store_rows(c, q_ptr, m + 2, k, M, K, POWER)
    scale_d = _store_rows(d, q_ptr, m + 3, k, M, K, POWER)
    row = row_block.to(tl.int64) * 128 + tl.arange(0, 128)
    scale = tl.reshape(interleaved(scale_a, scale_b, scale_c, scale_d), (128,))
    tl.store(s_ptr + column_block.to(tl.int64) * s_stride + row, scale, mask=row < s_stride)
    _store_columns(a, b, c, d, t_ptr, ts_ptr, row_block, k, K, t_stride, ts_stride, POWER)


@triton.jit
def _quantize_weight(w_ptr, q_ptr, s_ptr, N, K, POWER: tl.constexpr):
    rows = tl.cdiv(N, 128)
    columns = tl.cdiv(K, 128)
    expert = (tl.program_id(0) // (rows * columns)).to(tl.int64)
    tile = tl.program_id(0) % (rows * columns)
    n = tile // columns * 128 + tl.arange(0, 128)
    k = tile % columns * 128 + tl.arange(0, 128)
    inside = (n < N)[:, None] & (k < K)[None, :]
    at = expert * N * K + n.to(tl.int64)[:, None] * K + k[None, :]
    w = finite(tl.load(w_ptr + at, mask=inside, other=0.0).to(tl.float32))
    scale = scale_of(tl.max(tl.max(tl.abs(w), 1), 0), POWER)
    tl.store(q_ptr + at, divided(w, scale, POWER).to(tl.float8e4nv), mask=inside)
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
    """Down the rows of a block of columns first, as ``transpose_gluon`` does."""
    row_blocks = t_stride // 128
    column_block = tl.program_id(0) // row_blocks
    row_block = tl.program_id(0) % row_blocks
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
    shifted = tl.trans(shift(q, scale, largest).to(tl.float8e4nv))
    tl.store(t_ptr + k.to(tl.int64)[:, None] * t_stride + place[None, :], shifted, mask=(k < K)[:, None])
    tl.store(ts_ptr + tl.program_id(0), largest)


def quantize_rows(x: Tensor, power_of_two: bool) -> RowQ:
    """See ``op.quantize_rows``."""
    x = x.contiguous()
    rows, columns = x.shape
    data, scale = empty_rows(rows, columns, x.device)
    if x.numel():
        grid = (triton.cdiv(scale.shape[1], ROW_TILE[0]) * triton.cdiv(columns, ROW_TILE[1]),)
        sizes = (rows, columns, scale.shape[1])
        _quantize_rows[grid](x, data, scale, *sizes, power_of_two, *ROW_TILE, num_warps=4)
    return RowQ(data, scale)


def quantize_tokens(x: Tensor, power_of_two: bool) -> RowQ:
    """See ``op.quantize_tokens``."""
    x = x.contiguous()
    tokens, features = x.shape
    blocks = triton.cdiv(tokens, BLOCK)
    data, scale = empty_rows(features, blocks * BLOCK, x.device)
    if x.numel():
        grid = (blocks * triton.cdiv(scale.shape[1], TOKEN_TILE_COLUMNS),)
        sizes = (tokens, features, data.shape[1], scale.shape[1])
        _quantize_tokens[grid](x, data, scale, *sizes, power_of_two, TOKEN_TILE_COLUMNS, num_warps=4)
    return RowQ(data, scale)


def quantize_both(x: Tensor, power_of_two: bool) -> tuple[RowQ, RowQ]:
    """See ``op.quantize_both``."""
    x = x.contiguous()
    tokens, features = x.shape
    blocks = triton.cdiv(tokens, BLOCK)
    rows = RowQ(*empty_rows(tokens, features, x.device))
    columns = RowQ(*empty_rows(features, blocks * BLOCK, x.device))
    if x.numel():
        sizes = (tokens, features, rows.scale.shape[1], columns.data.shape[1], columns.scale.shape[1])
        _quantize_both[(blocks * rows.scale.shape[0],)](
            x, *rows.parts, *columns.parts, *sizes, power_of_two, num_warps=BOTH_WARPS[power_of_two]
        )
    return rows, columns


def quantize_weight(w: Tensor, out: WeightQ, power_of_two: bool) -> None:
    """See ``op.quantize_weight``."""
    programs = (out.scale.numel(),)
    rows, columns = w.shape[-2:]
    _quantize_weight[programs](w, out.data, out.scale, rows, columns, power_of_two, num_warps=8)
    transpose_weight(out)


def transpose_weight(w: WeightQ) -> None:
    """Make ``w.data_t`` of ``w.data``."""
    rows, columns = w.data.shape[-2:]
    _transpose_weight[(w.scale.numel(),)](w.data, w.data_t, rows, columns, num_warps=4)


def transpose_shift(a: RowQ, rows: Tensor | None = None) -> TokQ:
    """See ``op.transpose_shift``."""
    m, k = a.data.shape
    m_out = m if rows is None else rows.shape[0]
    t = TokQ(*empty_tokens(m_out, k, a.data.device))
    if t.data.numel():
        _transpose_shift[(t.scale.numel(),)](
            a.data,
            a.scale,
            a.data if rows is None else rows.contiguous(),
            t.data,
            t.scale,
            m,
            k,
            m_out,
            t.data.stride(0),
            a.scale.stride(0),
            GATHER=rows is not None,
            num_warps=4,
        )
    return t
