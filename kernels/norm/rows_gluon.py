"""Rows in a norm's registers, as they came: two bfloat16 a word.

A warp reads 256 columns of a row at once, a chunk, eight columns a thread: sixteen threads hold what shares a
scale. Tensors are [rows, blocks of 128 columns, 32], their elements *quads*: four columns, in two words.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"
# Device code: a function's arguments have no Python types, and a tuple that grows has many.

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ..quantize.words_gluon import e4m3, finite, high, larger, low, pair, product, scales

WARP_COLUMNS = 256
MOST_COLUMNS = 7168
"""Of a row: of more a warp has too few registers. Wider rows are ``norm_triton``'s."""

EACH = gl.constexpr(gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))
ALL = gl.constexpr(gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0]))


@gluon.constexpr_function
def quads_layout(rows, across, warps):
    """Of so many rows, each shared by ``across`` warps; a warp's rows all have the same columns."""
    own = rows * across // warps
    return gl.BlockedLayout([own, 1, 2], [1, 2, 16], [rows // own, across, 1], [2, 1, 0])


@gluon.constexpr_function
def numbers_layout(rows, across, warps):
    """The same with a dimension for the four columns."""
    own = rows * across // warps
    return gl.BlockedLayout([own, 1, 2, 4], [1, 2, 16, 1], [rows // own, across, 1, 1], [3, 2, 1, 0])


@gluon.constexpr_function
def _by_rows(rows, warps):
    """[pairs of chunks, rows, blocks]: neighbouring rows in neighbouring threads."""
    return gl.BlockedLayout([1, 1, 1], [1, rows, 32 // rows], [warps, 1, 1], [1, 2, 0])


@gluon.jit
def over_columns(x):
    """[rows, 1, 1] of [rows]."""
    return gl.expand_dims(gl.expand_dims(x, 1), 2)


@gluon.jit
def columns_of(ROWS: gl.constexpr, ACROSS: gl.constexpr):
    """[1, blocks, 32]: where quads of a row's first chunk stand."""
    QUADS: gl.constexpr = quads_layout(ROWS, ACROSS, gl.num_warps())
    block = gl.arange(0, 2 * ACROSS, gl.SliceLayout(0, gl.SliceLayout(2, QUADS)))
    quad = gl.arange(0, 32, gl.SliceLayout(0, gl.SliceLayout(1, QUADS)))
    return gl.expand_dims(gl.expand_dims(block, 0), 2) * 32 + gl.expand_dims(gl.expand_dims(quad, 0), 1)


@gluon.jit
def load(ptr, at, inside):
    """A quad; without a mask if all are inside."""
    x = gl.load(ptr + at, mask=inside, other=None if inside is None else 0)
    return x.to(gl.int32), (x >> 32).to(gl.int32)


@gluon.jit
def store(ptr, at, x, inside):
    """The inverse of ``load``."""
    words = x[0].to(gl.uint32, bitcast=True).to(gl.int64) | (x[1].to(gl.int64) << 32)
    gl.store(ptr + at, words, mask=inside)


@gluon.jit
def load_weight(w_ptr, chunk, D, ROWS: gl.constexpr, ACROSS: gl.constexpr, EVEN: gl.constexpr):
    """Quads of a weight of any float dtype, rounded to bfloat16, the same for all rows."""
    NUMBERS: gl.constexpr = gl.SliceLayout(0, numbers_layout(ROWS, ACROSS, gl.num_warps()))
    QUADS: gl.constexpr = gl.SliceLayout(0, quads_layout(ROWS, ACROSS, gl.num_warps()))
    block = chunk * (2 * ACROSS) + gl.arange(0, 2 * ACROSS, gl.SliceLayout(1, gl.SliceLayout(2, NUMBERS)))
    quad = gl.arange(0, 32, gl.SliceLayout(0, gl.SliceLayout(2, NUMBERS)))
    number = gl.arange(0, 4, gl.SliceLayout(0, gl.SliceLayout(1, NUMBERS)))
    d = gl.expand_dims(gl.expand_dims(block, 1), 2) * 128 + gl.expand_dims(gl.expand_dims(quad, 0), 2) * 4
    d += gl.expand_dims(gl.expand_dims(number, 0), 1)
    w = gl.load(w_ptr + d, mask=None if EVEN else d < D, other=None if EVEN else 0.0).to(gl.float32)
    firsts, seconds = gl.split(gl.reshape(w, (2 * ACROSS, 32, 2, 2)))
    first, second = gl.split(pair(firsts, seconds))
    first, second = gl.convert_layout(first, QUADS), gl.convert_layout(second, QUADS)
    return gl.expand_dims(first, 0), gl.expand_dims(second, 0)


@gluon.jit
def _largest(x):
    """Of eight columns in two words: [rows, blocks, 16]."""
    both = larger(x[0], x[1])
    first, second = gl.split(gl.reshape(both, (both.shape[0], both.shape[1], 16, 2)))
    return larger(first, second)


@gluon.jit
def _cast(x, inverse, QUADS: gl.constexpr):
    """A quad as bytes; the reciprocal of their scale stands in both halves of a word."""
    by = gl.expand_dims(gl.convert_layout(inverse, gl.SliceLayout(2, QUADS)), 2)
    first, second = product(x[0], by), product(x[1], by)
    return e4m3(low(first), high(first), low(second), high(second))


@gluon.jit
def _scales_of_two(x, y):
    """Scales of two chunks, which share words, and their reciprocals, in both halves of two."""
    x, y = _largest(x), _largest(y)
    both = larger((x & 0xFFFF) | (y << 16), ((x >> 16) & 0xFFFF) | (y & -65536))
    scale, inverse = scales(gl.reduce(both, 2, larger))
    return scale, (inverse & 0xFFFF) | (inverse << 16), (inverse & -65536) | ((inverse >> 16) & 0xFFFF)


@gluon.jit
def _store_scales(s_ptr, scales_s, first, M, Q, s_stride, ROWS: gl.constexpr, ACROSS: gl.constexpr):
    """Scales of all chunks, a tile's rows in one store: alone, each would cost what 32 bytes cost."""
    PAIRS: gl.constexpr = scales_s.shape[0]
    LAYOUT: gl.constexpr = _by_rows(ROWS, gl.num_warps())
    scale = scales_s._reinterpret(gl.int32, scales_s.shape, ALL).load(LAYOUT)
    chunk = 2 * gl.arange(0, PAIRS, gl.SliceLayout(1, gl.SliceLayout(2, LAYOUT)))
    m = gl.arange(0, ROWS, gl.SliceLayout(0, gl.SliceLayout(2, LAYOUT)))
    block = gl.arange(0, 2 * ACROSS, gl.SliceLayout(0, gl.SliceLayout(1, LAYOUT)))
    m = first + gl.expand_dims(gl.expand_dims(m, 0), 2)
    block = over_columns(chunk) * (2 * ACROSS) + gl.expand_dims(gl.expand_dims(block, 0), 1)
    for half in gl.static_range(2):
        kept = (m < s_stride) & (block < gl.cdiv(Q, 32))
        multiplier = gl.where(m < M, high(scale) if half else low(scale), 2.0**-126)
        gl.store(s_ptr + block.to(gl.int64) * s_stride + m, multiplier, mask=kept)
        block += 2 * ACROSS


@gluon.jit
def store_quantized(q_ptr, s_ptr, chunks, first, M, Q, s_stride, ROWS: gl.constexpr, ACROSS: gl.constexpr):
    """Bytes of rows of Q quads from ``first`` on, and their scales: those of zeros for rows beyond M.

    Bytes are those of ``quantize_rows``, and q's elements words of four.
    """
    QUADS: gl.constexpr = quads_layout(ROWS, ACROSS, gl.num_warps())
    CHUNKS: gl.constexpr = len(chunks)
    PAIRS: gl.constexpr = 1 if CHUNKS <= 2 else 2 if CHUNKS <= 4 else 4
    row = over_columns(first + gl.arange(0, ROWS, gl.SliceLayout(1, gl.SliceLayout(2, QUADS))))
    k = columns_of(ROWS, ACROSS)
    scales_s = gl.allocate_shared_memory(gl.int32, [PAIRS, ROWS, 2 * ACROSS], EACH)
    numbers = ()
    for i in gl.static_range(CHUNKS):
        numbers += ((finite(chunks[i][0]), finite(chunks[i][1])),)
    for i in gl.static_range(0, CHUNKS, 2):
        # The last of an odd number is its own neighbour.
        scale, inverse, other = _scales_of_two(numbers[i], numbers[i + 1 if i + 1 < CHUNKS else i])
        scales_s.index(i // 2).store(scale)
        gl.store(q_ptr + row * Q + k, _cast(numbers[i], inverse, QUADS), mask=(row < M) & (k < Q))
        k += ACROSS * 64
        if i + 1 < CHUNKS:
            gl.store(q_ptr + row * Q + k, _cast(numbers[i + 1], other, QUADS), mask=(row < M) & (k < Q))
            k += ACROSS * 64
    _store_scales(s_ptr, scales_s, first, M, Q, s_stride, ROWS, ACROSS)


class Tile(NamedTuple):
    """Rows of a program, warps that share one, and in how many chunks."""

    ROWS: int
    ACROSS: int
    CHUNKS: int

    def is_even(self, size: int) -> bool:
        """Whether rows of ``size`` columns fill all chunks, so that columns need no mask."""
        return size == self.ACROSS * self.CHUNKS * WARP_COLUMNS


def registers_for(warps: int) -> int:
    """The most that a thread may have if so many warps are to fit on a multiprocessor."""
    return min(255, 65536 // (32 * warps)) // 8 * 8


def fits(*operands: Tensor) -> bool:
    """Whether all are matrices of bfloat16 that can be read by four columns."""
    return all(
        x.dtype == torch.bfloat16
        and x.shape[-1] <= MOST_COLUMNS
        and all(n % 4 == 0 for n in (x.shape[-1], x.stride(0)))
        and x.data_ptr() % 8 == 0
        for x in operands
    )
