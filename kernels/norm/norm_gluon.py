"""RMSNorm's forward kernel for Hopper, in Gluon: what ``norm_triton``'s does, in half the instructions.

Rows stay in registers as they came, two bfloat16 a word. A warp reads 256 columns at once, eight a thread, so
that sixteen threads hold what shares a scale; where one warp can hold a row, no warp waits for another.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment, var-annotated"
# Device code: a kernel's arguments have no Python types, and a tuple that grows has many.

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ..quantize.words_gluon import e4m3, finite, high, larger, low, pair, product, scales, total

WARPS = 4
WARP_ROWS = 2
"""Rows that a warp has at once, of the same columns: it reads the weight once for both."""
WARP_COLUMNS = 256
CHUNKS = 5
"""Of a row in a warp, while there are more warps to share it: registers are scarce."""
MOST_COLUMNS = 7 * WARPS * WARP_COLUMNS
"""Of a row: wider ones are ``norm_triton``'s."""

EACH = gl.constexpr(gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))
ALL = gl.constexpr(gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0]))


@gluon.constexpr_function
def _quads(rows, across):
    """[rows, blocks of 128 columns, 32]: elements of four columns, two a thread and chunk."""
    return gl.BlockedLayout([WARP_ROWS, 1, 2], [1, 2, 16], [rows // WARP_ROWS, across, 1], [2, 1, 0])


@gluon.constexpr_function
def _numbers(rows, across):
    """The same with a dimension for the four."""
    return gl.BlockedLayout(
        [WARP_ROWS, 1, 2, 4], [1, 2, 16, 1], [rows // WARP_ROWS, across, 1, 1], [3, 2, 1, 0]
    )


@gluon.constexpr_function
def _by_rows(rows, warps):
    """[pairs of chunks, rows, blocks]: neighbouring rows in neighbouring threads."""
    return gl.BlockedLayout([1, 1, 1], [1, rows, 32 // rows], [warps, 1, 1], [1, 2, 0])


@gluon.jit
def _load(ptr, at, inside):
    """Four columns in two words."""
    x = gl.load(ptr + at, mask=inside, other=None if inside is None else 0)
    return x.to(gl.int32), (x >> 32).to(gl.int32)


@gluon.jit
def _store(ptr, at, x, inside):
    words = x[0].to(gl.uint32, bitcast=True).to(gl.int64) | (x[1].to(gl.int64) << 32)
    gl.store(ptr + at, words, mask=inside)


@gluon.jit
def _combine(extra, rows_ptr, chosen, column, inside, Q):
    """As ``permute_triton._gather_sum``: the weighted rows of each token's choices, plus extra."""
    a, b, c, d = low(extra[0]), high(extra[0]), low(extra[1]), high(extra[1])
    for choice in gl.static_range(len(chosen)):
        row, p = chosen[choice]
        x = _load(rows_ptr, row * Q + column, inside & (row >= 0))
        a, b, c, d = a + low(x[0]) * p, b + high(x[0]) * p, c + low(x[1]) * p, d + high(x[1]) * p
    return pair(a, b), pair(c, d)


@gluon.jit
def _choices(p_ptr, pos_ptr, m, M, CHOICES: gl.constexpr):
    """Row and weight of each of a token's choices."""
    chosen = ()
    for choice in gl.static_range(CHOICES):
        row = gl.load(pos_ptr + m * CHOICES + choice, mask=m < M, other=-1).to(gl.int64)
        p = gl.load(p_ptr + m * CHOICES + choice, mask=m < M, other=0.0)
        chosen += ((_over_columns(row), _over_columns(p)),)
    return chosen


@gluon.jit
def _over_columns(x):
    """[rows, 1, 1] of [rows]."""
    return gl.expand_dims(gl.expand_dims(x, 1), 2)


@gluon.jit
def _weight(w_ptr, chunk, D, ROWS: gl.constexpr, ACROSS: gl.constexpr, EVEN: gl.constexpr):
    """Four columns of the weight in two words, the same for all rows."""
    NUMBERS: gl.constexpr = gl.SliceLayout(0, _numbers(ROWS, ACROSS))
    QUADS: gl.constexpr = gl.SliceLayout(0, _quads(ROWS, ACROSS))
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
    """Four columns as bytes; the reciprocal of their scale stands in both halves of a word."""
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
def _store_scales(s_ptr, scales_s, M, D, s_stride, ROWS: gl.constexpr, ACROSS: gl.constexpr):
    """Scales of all chunks, neighbouring rows in one store: alone, each would cost what 32 bytes cost."""
    PAIRS: gl.constexpr = scales_s.shape[0]
    LAYOUT: gl.constexpr = _by_rows(ROWS, gl.num_warps())
    scale = scales_s._reinterpret(gl.int32, scales_s.shape, ALL).load(LAYOUT)
    chunk = 2 * gl.arange(0, PAIRS, gl.SliceLayout(1, gl.SliceLayout(2, LAYOUT)))
    m = gl.program_id(0).to(gl.int64) * ROWS + gl.arange(
        0, ROWS, gl.SliceLayout(0, gl.SliceLayout(2, LAYOUT))
    )
    block = gl.arange(0, 2 * ACROSS, gl.SliceLayout(0, gl.SliceLayout(1, LAYOUT)))
    m = gl.expand_dims(gl.expand_dims(m, 0), 2)
    block = _over_columns(chunk) * (2 * ACROSS) + gl.expand_dims(gl.expand_dims(block, 0), 1)
    for half in gl.static_range(2):
        kept = (m < s_stride) & (block < gl.cdiv(D, 128))
        multiplier = gl.where(m < M, high(scale) if half else low(scale), 2.0**-126)
        gl.store(s_ptr + block.to(gl.int64) * s_stride + m, multiplier, mask=kept)
        block += 2 * ACROSS


@gluon.jit
def rms_norm_kernel(
    x_ptr, delta_ptr, rows_ptr, p_ptr, pos_ptr, w_ptr, sum_ptr, y_ptr, r_ptr, q_ptr, s_ptr,
    M, Q, x_stride, s_stride, eps,
    ADD: gl.constexpr, CHOICES: gl.constexpr, KEEP: gl.constexpr,
    ROWS: gl.constexpr, ACROSS: gl.constexpr, CHUNKS: gl.constexpr, EVEN: gl.constexpr,
):  # fmt: skip
    """As ``norm_triton._rms_norm_forward``. A row has Q elements of four columns."""
    QUADS: gl.constexpr = _quads(ROWS, ACROSS)
    PAIRS: gl.constexpr = 1 if CHUNKS <= 2 else 2 if CHUNKS <= 4 else 4
    m = gl.program_id(0).to(gl.int64) * ROWS + gl.arange(0, ROWS, gl.SliceLayout(1, gl.SliceLayout(2, QUADS)))
    block = gl.arange(0, 2 * ACROSS, gl.SliceLayout(0, gl.SliceLayout(2, QUADS)))
    quad = gl.arange(0, 32, gl.SliceLayout(0, gl.SliceLayout(1, QUADS)))
    row = _over_columns(m)
    read = gl.minimum(row, M - 1)  # reads then need no mask where a row is whole chunks
    column = gl.expand_dims(gl.expand_dims(block, 0), 2) * 32 + gl.expand_dims(gl.expand_dims(quad, 0), 1)
    xs = ()
    deltas = ()
    for i in gl.static_range(CHUNKS):
        k = column + i * ACROSS * 64
        inside = None if EVEN else k < Q
        xs += (_load(x_ptr, read * x_stride + k, inside),)
        if ADD:
            deltas += (_load(delta_ptr, read * Q + k, inside),)
    chosen = _choices(p_ptr, pos_ptr, m, M, CHOICES)
    squares = gl.zeros([ROWS, 2 * ACROSS, 32], gl.float32, QUADS)
    sums = ()
    for i in gl.static_range(CHUNKS):
        x = xs[i]
        k = column + i * ACROSS * 64
        inside = (row < M) & (k < Q)
        if ADD or CHOICES > 0:
            delta = deltas[i] if ADD else (gl.zeros_like(x[0]), gl.zeros_like(x[0]))
            if CHOICES > 0:
                delta = _combine(delta, rows_ptr, chosen, k, inside, Q)
            x = total(x[0], delta[0]), total(x[1], delta[1])
            _store(sum_ptr, row * Q + k, x, inside)
        for j in gl.static_range(2):
            squares = gl.fma(low(x[j]), low(x[j]), squares)
            squares = gl.fma(high(x[j]), high(x[j]), squares)
        sums += (x,)
    r = gl.rsqrt(gl.sum(gl.sum(squares, 2), 1) / (Q * 4) + eps)
    gl.store(r_ptr + m, r, mask=m < M)
    r = _over_columns(r)
    ys = ()
    for i in gl.static_range(CHUNKS):
        x = sums[i]
        w = _weight(w_ptr, i, Q * 4, ROWS, ACROSS, EVEN)
        first, second = pair(low(x[0]) * r, high(x[0]) * r), pair(low(x[1]) * r, high(x[1]) * r)
        y = product(first, w[0]), product(second, w[1])
        k = column + i * ACROSS * 64
        if KEEP:
            _store(y_ptr, row * Q + k, y, (row < M) & (k < Q))
        ys += ((finite(y[0]), finite(y[1])),)
    scales_s = gl.allocate_shared_memory(gl.int32, [PAIRS, ROWS, 2 * ACROSS], EACH)
    for i in gl.static_range(0, CHUNKS, 2):
        # The last of an odd number is its own neighbour.
        scale, first, second = _scales_of_two(ys[i], ys[i + 1 if i + 1 < CHUNKS else i])
        scales_s.index(i // 2).store(scale)
        k = column + i * ACROSS * 64
        gl.store(q_ptr + row * Q + k, _cast(ys[i], first, QUADS), mask=(row < M) & (k < Q))
        if i + 1 < CHUNKS:
            k += ACROSS * 64
            gl.store(q_ptr + row * Q + k, _cast(ys[i + 1], second, QUADS), mask=(row < M) & (k < Q))
    _store_scales(s_ptr, scales_s, M, Q * 4, s_stride, ROWS, ACROSS)


class Tile(NamedTuple):
    """Rows of a program, warps that share one, and in how many chunks."""

    ROWS: int
    ACROSS: int
    CHUNKS: int


def tile_for(size: int) -> Tile:
    """As few warps a row as can hold it."""
    across = min(WARPS, triton.next_power_of_2(triton.cdiv(size, CHUNKS * WARP_COLUMNS)))
    return Tile(WARP_ROWS * WARPS // across, across, triton.cdiv(size, across * WARP_COLUMNS))


def fits(*operands: Tensor) -> bool:
    """Whether all are matrices of bfloat16 that can be read by four columns."""
    return all(
        x.dtype == torch.bfloat16
        and x.shape[-1] <= MOST_COLUMNS
        and all(n % 4 == 0 for n in (x.shape[-1], x.stride(0)))
        and x.data_ptr() % 8 == 0
        for x in operands
    )


def forward(
    rows: Tensor, delta: Tensor | None, due: Sequence[Tensor], w: Tensor, eps: float, out: Sequence[Tensor]
) -> None:
    """See ``norm_triton.forward``; of operands that ``fits``, and always quantised."""
    y, r, total, data, scale = out
    chosen, p, position = due or (rows, r, r)
    tile = tile_for(rows.shape[1])
    # Scales are written beyond the last row too.
    rms_norm_kernel[(triton.cdiv(scale.shape[1], tile.ROWS),)](
        *(_quads_of(x) for x in (rows, rows if delta is None else delta, chosen)),
        p, position, w, _quads_of(total), _quads_of(y), r, data.view(torch.int32), scale,
        rows.shape[0], rows.shape[1] // 4, rows.stride(0) // 4, scale.shape[1], eps,
        ADD=delta is not None, CHOICES=position.shape[1] if due else 0, KEEP=y.numel() > 0,
        **tile._asdict(), EVEN=rows.shape[1] % (tile.ACROSS * tile.CHUNKS * WARP_COLUMNS) == 0,
        num_warps=WARPS,
    )  # fmt: skip


def _quads_of(x: Tensor) -> Tensor:
    return x.view(torch.int64) if x.numel() else x
