"""RMSNorm's forward kernel for Hopper in Gluon: ``norm_triton``'s in half the instructions.

Where one warp can hold a row, no warp waits for another but to store scales, and it has the registers to read
its next row while it works on one.
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

from .. import registry
from ..quantize.words_gluon import high, low, pair, product, total
from .rows_gluon import (
    WARP_COLUMNS,
    Tile,
    columns_of,
    load,
    load_weight,
    over_columns,
    quads_layout,
    store,
    store_quantized,
)

WARPS = 4
CHUNKS = 5
"""Of a row in a warp, while there are more warps to share it: registers are scarce."""


@gluon.jit
def _combine(extra, rows_ptr, chosen, column, inside, Q):
    """As ``permute_triton._gather_sum``: the weighted rows of each token's choices, plus extra."""
    a, b, c, d = low(extra[0]), high(extra[0]), low(extra[1]), high(extra[1])
    for choice in gl.static_range(len(chosen)):
        row, p = chosen[choice]
        x = load(rows_ptr, row * Q + column, inside & (row >= 0))
        a, b, c, d = a + low(x[0]) * p, b + high(x[0]) * p, c + low(x[1]) * p, d + high(x[1]) * p
    return pair(a, b), pair(c, d)


@gluon.jit
def _choices(p_ptr, pos_ptr, m, M, CHOICES: gl.constexpr):
    """Row and weight of each of a token's choices."""
    chosen = ()
    for choice in gl.static_range(CHOICES):
        row = gl.load(pos_ptr + m * CHOICES + choice, mask=m < M, other=-1).to(gl.int64)
        p = gl.load(p_ptr + m * CHOICES + choice, mask=m < M, other=0.0)
        chosen += ((over_columns(row), over_columns(p)),)
    return chosen


@gluon.jit
def _fetch(
    x_ptr, delta_ptr, first, column, M, Q, x_stride,
    ADD: gl.constexpr, ROWS: gl.constexpr, ACROSS: gl.constexpr, CHUNKS: gl.constexpr, EVEN: gl.constexpr,
):  # fmt: skip
    """Rows from ``first`` on, and those of delta if ADD; of the last row again what lies beyond it."""
    QUADS: gl.constexpr = quads_layout(ROWS, ACROSS, gl.num_warps())
    m = first + gl.arange(0, ROWS, gl.SliceLayout(1, gl.SliceLayout(2, QUADS)))
    row = gl.minimum(over_columns(m), M - 1)  # reads then need no mask where a row is whole chunks
    xs = ()
    deltas = ()
    for i in gl.static_range(CHUNKS):
        k = column + i * ACROSS * 64
        inside = None if EVEN else k < Q
        xs += (load(x_ptr, row * x_stride + k, inside),)
        if ADD:
            deltas += (load(delta_ptr, row * Q + k, inside),)
    return xs, deltas


@gluon.jit
def _normalize(
    xs, deltas, ws, rows_ptr, p_ptr, pos_ptr, w_ptr, sum_ptr, y_ptr, r_ptr, q_ptr, s_ptr,
    first, column, M, Q, s_stride, eps,
    ADD: gl.constexpr, CHOICES: gl.constexpr, KEEP: gl.constexpr, QUANTIZE: gl.constexpr,
    ROWS: gl.constexpr, ACROSS: gl.constexpr, CHUNKS: gl.constexpr, EVEN: gl.constexpr,
):  # fmt: skip
    """Work on the rows from ``first`` on, which have come, and store all that comes of them."""
    QUADS: gl.constexpr = quads_layout(ROWS, ACROSS, gl.num_warps())
    m = first + gl.arange(0, ROWS, gl.SliceLayout(1, gl.SliceLayout(2, QUADS)))
    row = over_columns(m)
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
            store(sum_ptr, row * Q + k, x, inside)
        for j in gl.static_range(2):
            squares = gl.fma(low(x[j]), low(x[j]), squares)
            squares = gl.fma(high(x[j]), high(x[j]), squares)
        sums += (x,)
    r = gl.rsqrt(gl.sum(gl.sum(squares, 2), 1) / (Q * 4) + eps)
    gl.store(r_ptr + m, r, mask=m < M)
    r = over_columns(r)
    ys = ()
    for i in gl.static_range(CHUNKS):
        x = sums[i]
        w = ws[i] if CHOICES == 0 else load_weight(w_ptr, i, Q * 4, ROWS, ACROSS, EVEN)
        y = pair(low(x[0]) * r, high(x[0]) * r), pair(low(x[1]) * r, high(x[1]) * r)
        y = product(y[0], w[0]), product(y[1], w[1])
        k = column + i * ACROSS * 64
        if KEEP:
            store(y_ptr, row * Q + k, y, (row < M) & (k < Q))
        ys += (y,)
    if QUANTIZE:
        store_quantized(q_ptr, s_ptr, ys, first, M, Q, s_stride, ROWS, ACROSS)


@gluon.jit
def rms_norm_kernel(
    x_ptr, delta_ptr, rows_ptr, p_ptr, pos_ptr, w_ptr, sum_ptr, y_ptr, r_ptr, q_ptr, s_ptr,
    M, Q, x_stride, s_stride, K, eps,
    ADD: gl.constexpr, CHOICES: gl.constexpr, KEEP: gl.constexpr, QUANTIZE: gl.constexpr, STAY: gl.constexpr,
    ROWS: gl.constexpr, ACROSS: gl.constexpr, CHUNKS: gl.constexpr, EVEN: gl.constexpr,
):  # fmt: skip
    """As ``norm_triton._rms_norm_forward``, of K tiles of rows of Q elements of four columns.

    A program has one tile, or if it may STAY takes one after another and reads the next ahead. It has the
    weight from the start, but for sums of CHOICES, which need the registers.
    """
    column = columns_of(ROWS, ACROSS)
    first = gl.program_id(0).to(gl.int64) * ROWS
    # fmt: off
    xs, deltas = _fetch(x_ptr, delta_ptr, first, column, M, Q, x_stride, ADD, ROWS, ACROSS, CHUNKS, EVEN)
    ws = ()
    if CHOICES == 0:
        for i in gl.static_range(CHUNKS):
            ws += (load_weight(w_ptr, i, Q * 4, ROWS, ACROSS, EVEN),)
    if STAY:
        step = gl.num_programs(0).to(gl.int64) * ROWS
        for _ in range(gl.program_id(0), K, gl.num_programs(0)):
            upcoming = _fetch(x_ptr, delta_ptr, first + step, column, M, Q, x_stride,
                              ADD, ROWS, ACROSS, CHUNKS, EVEN)
            _normalize(xs, deltas, ws, rows_ptr, p_ptr, pos_ptr, w_ptr, sum_ptr, y_ptr, r_ptr, q_ptr, s_ptr,
                       first, column, M, Q, s_stride, eps,
                       ADD, CHOICES, KEEP, QUANTIZE, ROWS, ACROSS, CHUNKS, EVEN)
            xs, deltas = upcoming
            first += step
    else:
        _normalize(xs, deltas, ws, rows_ptr, p_ptr, pos_ptr, w_ptr, sum_ptr, y_ptr, r_ptr, q_ptr, s_ptr,
                   first, column, M, Q, s_stride, eps,
                   ADD, CHOICES, KEEP, QUANTIZE, ROWS, ACROSS, CHUNKS, EVEN)
    # fmt: on


class Plan(NamedTuple):
    """A program's tile, and whether it stays and takes more."""

    tile: Tile
    registers: int | None
    """A thread's at most, of programs that stay; None: each has one tile."""

    def resident(self) -> int | None:
        """Programs that stay, for each multiprocessor: with fewer too little is under way."""
        return None if self.registers is None else 65536 // (32 * WARPS * self.registers)


def plan_for(size: int, is_sum: bool, combined: bool, keep: bool, quantize: bool) -> Plan:
    """As few warps a row as can hold it, and of a warp one row, or two of the same columns.

    Whichever was faster: bench/LOG.md, "Norms that read ahead".
    """
    across = min(WARPS, triton.next_power_of_2(triton.cdiv(size, CHUNKS * WARP_COLUMNS)))
    stays = not combined and (across == 1 or (across == 2 and quantize and not is_sum))
    # A warp that holds little of a wide row has too little under way with one.
    warp_rows = 2 if combined or (across == WARPS and quantize and not is_sum) else 1
    tile = Tile(warp_rows * WARPS // across, across, triton.cdiv(size, across * WARP_COLUMNS))
    if not stays:
        return Plan(tile, None)
    if tile.CHUNKS <= 2:
        return Plan(tile, 80 if is_sum else 64)
    return Plan(tile, 168 if is_sum else 128 if keep else 96)


def forward(
    rows: Tensor, delta: Tensor | None, due: Sequence[Tensor], w: Tensor, eps: float, out: Sequence[Tensor]
) -> None:
    """See ``norm_triton.forward``; of operands that ``rows_gluon.fits``."""
    y, r, added, data, scale = out
    chosen, p, position = due or (rows, r, r)
    quantize, words = data.numel() > 0, data.view(torch.int32) if data.numel() else data
    plan = plan_for(rows.shape[1], added.numel() > 0, len(due) > 0, y.numel() > 0, quantize)
    # Scales are written beyond the last row too.
    tiles = triton.cdiv(max(rows.shape[0], scale.shape[1]), plan.tile.ROWS)
    resident = plan.resident()
    programs = tiles if resident is None else min(tiles, registry.multiprocessors(rows.device) * resident)
    rms_norm_kernel[(programs,)](
        *(_quads_of(x) for x in (rows, rows if delta is None else delta, chosen)),
        p, position, w, _quads_of(added), _quads_of(y), r, words, scale,
        rows.shape[0], rows.shape[1] // 4, rows.stride(0) // 4, scale.shape[1], tiles, eps,
        ADD=delta is not None, CHOICES=position.shape[1] if due else 0, KEEP=y.numel() > 0, QUANTIZE=quantize,
        STAY=resident is not None, **plan.tile._asdict(), EVEN=plan.tile.is_even(rows.shape[1]),
        num_warps=WARPS, maxnreg=plan.registers,
    )  # fmt: skip


def _quads_of(x: Tensor) -> Tensor:
    return x.view(torch.int64) if x.numel() else x
