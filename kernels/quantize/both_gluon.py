"""``quantize_both`` for Hopper, in Gluon: a program casts one tile of 128x128 by rows and by columns.

A tile stays in registers as it came, two bfloat16 a word, so that four programs share a multiprocessor. A
thread has four rows of four columns at a time, whose bytes fill whole words in either direction.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"
# Device code: a kernel's arguments have no Python types, and a tuple that grows has many.

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from ..types import BLOCK, RowQ, aligned, empty_rows
from .words_gluon import e4m3, finite, high, larger, larger_pair, low, product, scales

WARPS, REGISTERS = 8, 64
"""Of a program, and of its threads: four programs fill a multiprocessor."""
WORDS = 32
"""Of four bytes, in a row or column of a tile."""
TILE = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=32, rank=2)
# Four threads down the rows and eight across are a warp, which then goes right; warps stand below each other.
SQUARES = gl.constexpr(
    gl.DistributedLinearLayout(
        [[0, 8], [0, 16]], [[1, 0], [2, 0], [0, 1], [0, 2], [0, 4]], [[4, 0], [8, 0], [16, 0]], [], [32, 32]
    )
)
DOWN = gl.constexpr(gl.SliceLayout(1, SQUARES))
ACROSS = gl.constexpr(gl.SliceLayout(0, SQUARES))


@gluon.jit
def _load(x_ptr, m, k, M, K):
    """Four columns of a row in two words."""
    inside = gl.expand_dims(m < M, 1) & gl.expand_dims(k * 4 < K, 0)
    x = gl.load(x_ptr + gl.expand_dims(m * (K // 4), 1) + gl.expand_dims(k, 0), mask=inside, other=0)
    return finite(x.to(gl.int32)), finite((x >> 32).to(gl.int32))


@gluon.jit
def _cast_row(x, s_ptr, m, s_stride):
    """Bytes of four columns; the row's scale goes to memory."""
    largest = gl.reduce(larger(x[0], x[1]), 1, larger)
    largest &= 0x7FFF7FFF
    largest = larger(largest, (largest << 16) | (largest >> 16))
    scale, inverse = scales(largest)
    gl.store(s_ptr + m, high(scale), mask=m < s_stride)
    by = gl.expand_dims(inverse, 1)
    first, second = product(x[0], by), product(x[1], by)
    return e4m3(low(first), high(first), low(second), high(second))


@gluon.jit
def _cast_columns(a, b, c, d, largest, ts_ptr, k, ts_stride):
    """Bytes of four rows of a column, and of the next; the columns' scales go to memory."""
    scale, inverse = scales(largest)
    gl.store(ts_ptr + k, low(scale), mask=k < ts_stride)
    gl.store(ts_ptr + k + 1, high(scale), mask=k < ts_stride)
    by = gl.expand_dims(inverse, 0)
    a, b, c, d = product(a, by), product(b, by), product(c, by), product(d, by)
    return e4m3(low(a), low(b), low(c), low(d)), e4m3(high(a), high(b), high(c), high(d))


@gluon.jit
def _interleaved(a, b, c, d):
    """[..., 2, 2] of four [...]: in order a, b, c, d."""
    return gl.join(gl.join(a, c), gl.join(b, d))


@gluon.jit
def _send(words, tile_s, desc, row, column):
    """A tile by TMA, by way of shared memory."""
    tile_s.store(gl.reshape(words, (128, 32)))
    fence_async_shared()
    tma.async_copy_shared_to_global(desc, [row, column], tile_s)


@gluon.jit
def quantize_both_kernel(x_ptr, q_desc, s_ptr, t_desc, ts_ptr, M, K, s_stride, ts_stride):
    """A tile of 128x128 by rows and by columns; of x, four numbers are one element.

    Programs that follow one another go along a block of rows: what they read lies side by side.
    """
    column_blocks = gl.cdiv(K, 128)
    row_block = gl.program_id(0) // column_blocks
    column_block = gl.program_id(0) % column_blocks
    tiles_s = gl.allocate_shared_memory(gl.int32, [2, 128, 32], q_desc.layout)
    m = row_block.to(gl.int64) * 128 + gl.arange(0, 32, DOWN) * 4
    k = column_block * 32 + gl.arange(0, 32, ACROSS)
    a = _load(x_ptr, m, k, M, K)
    b = _load(x_ptr, m + 1, k, M, K)
    c = _load(x_ptr, m + 2, k, M, K)
    d = _load(x_ptr, m + 3, k, M, K)
    largest = ()
    for i in gl.static_range(2):
        largest += (larger(larger(a[i], b[i]), larger(c[i], d[i])),)
    largest = gl.reduce(largest, 0, larger_pair)
    s_ptr += column_block.to(gl.int64) * s_stride
    words = _interleaved(
        _cast_row(a, s_ptr, m, s_stride),
        _cast_row(b, s_ptr, m + 1, s_stride),
        _cast_row(c, s_ptr, m + 2, s_stride),
        _cast_row(d, s_ptr, m + 3, s_stride),
    )
    _send(gl.permute(words, (0, 2, 3, 1)), tiles_s.index(0), q_desc, row_block * 128, column_block * 32)
    ts_ptr += row_block.to(gl.int64) * ts_stride
    t0, t1 = _cast_columns(a[0], b[0], c[0], d[0], largest[0], ts_ptr, k * 4, ts_stride)
    t2, t3 = _cast_columns(a[1], b[1], c[1], d[1], largest[1], ts_ptr, k * 4 + 2, ts_stride)
    words = gl.permute(_interleaved(t0, t1, t2, t3), (1, 2, 3, 0))
    _send(words, tiles_s.index(1), t_desc, column_block * 128, row_block * 32)
    tma.store_wait(0)


def quantize_both(x: Tensor, _power_of_two: bool) -> tuple[RowQ, RowQ]:
    """See ``op.quantize_both``; for rows of a multiple of 16 bfloat16, and scales that are powers of two."""
    x = aligned(x)
    tokens, features = x.shape
    blocks = -(-tokens // BLOCK)
    rows = RowQ(*empty_rows(tokens, features, x.device))
    columns = RowQ(*empty_rows(features, blocks * BLOCK, x.device))
    if x.numel():
        q_desc, t_desc = (
            TensorDescriptor.from_tensor(q.data.view(torch.int32), [BLOCK, WORDS], TILE)
            for q in (rows, columns)
        )
        quantize_both_kernel[(blocks * rows.scale.shape[0],)](
            x.view(torch.int64), q_desc, rows.scale, t_desc, columns.scale,
            tokens, features, rows.scale.shape[1], columns.scale.shape[1],
            num_warps=WARPS, maxnreg=REGISTERS,
        )  # fmt: skip
    return rows, columns
