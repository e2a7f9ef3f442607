"""RMSNorm's forward kernel for Hopper in Gluon; quantising, it takes half of ``norm_triton``'s instructions.

Where one warp can hold a row, no warp waits for another but to store scales. Programs that have the registers
stay, and read their next rows before they have finished the present ones.
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
    registers_for,
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
def _rows_from(first, ROWS: gl.constexpr, ACROSS: gl.constexpr):
    """[rows]: the numbers of a tile's rows."""
    QUADS: gl.constexpr = quads_layout(ROWS, ACROSS, gl.num_warps())
    return first + gl.arange(0, ROWS, gl.SliceLayout(1, gl.SliceLayout(2, QUADS)))


@gluon.jit
def _fetch(
    x_ptr, delta_ptr, first, column, M, Q, x_stride,
    ADD: gl.constexpr, ROWS: gl.constexpr, ACROSS: gl.constexpr, CHUNKS: gl.constexpr, EVEN: gl.constexpr,
):  # fmt: skip
    """Rows from ``first`` on, and those of delta if ADD; beyond the last row that row again."""
    # Reads then need no mask where a row is whole chunks.
    row = gl.minimum(over_columns(_rows_from(first, ROWS, ACROSS)), M - 1)
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
    xs, deltas, ws, due, w_ptr, out, first, column, M, Q, s_stride, eps,
    ADD: gl.constexpr, CHOICES: gl.constexpr, KEEP: gl.constexpr, QUANTIZE: gl.constexpr,
    ROWS: gl.constexpr, ACROSS: gl.constexpr, CHUNKS: gl.constexpr, EVEN: gl.constexpr,
):  # fmt: skip
    """Store whatever comes of the rows from ``first`` on."""
    QUADS: gl.constexpr = quads_layout(ROWS, ACROSS, gl.num_warps())
    rows_ptr, p_ptr, pos_ptr = due
    sum_ptr, y_ptr, r_ptr, q_ptr, s_ptr = out
    m = _rows_from(first, ROWS, ACROSS)
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
    M, Q, x_stride, s_stride, eps,
    ADD: gl.constexpr, CHOICES: gl.constexpr, KEEP: gl.constexpr, QUANTIZE: gl.constexpr, STAY: gl.constexpr,
    ROWS: gl.constexpr, ACROSS: gl.constexpr, CHUNKS: gl.constexpr, EVEN: gl.constexpr,
):  # fmt: skip
    """As ``norm_triton._rms_norm_forward``. A row has Q elements of four columns.

    A program has one tile, or if it may STAY takes one after another and reads the next ahead. It has the
    weight from the start, but for sums of CHOICES, which need the registers.
    """
    due = rows_ptr, p_ptr, pos_ptr
    out = sum_ptr, y_ptr, r_ptr, q_ptr, s_ptr
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
        for _ in range(gl.program_id(0), gl.cdiv(s_stride, ROWS), gl.num_programs(0)):
            upcoming = _fetch(x_ptr, delta_ptr, first + step, column, M, Q, x_stride,
                              ADD, ROWS, ACROSS, CHUNKS, EVEN)
            _normalize(xs, deltas, ws, due, w_ptr, out, first, column, M, Q, s_stride, eps,
                       ADD, CHOICES, KEEP, QUANTIZE, ROWS, ACROSS, CHUNKS, EVEN)
            xs, deltas = upcoming
            first += step
    else:
        _normalize(xs, deltas, ws, due, w_ptr, out, first, column, M, Q, s_stride, eps,
                   ADD, CHOICES, KEEP, QUANTIZE, ROWS, ACROSS, CHUNKS, EVEN)
    # fmt: on


class Plan(NamedTuple):
    """How many rows a program has at once, and whether it stays."""

    tile: Tile
    resident: int
    """Programs on each multiprocessor that stay and take one tile after another; 0: each program has one."""

    @property
    def registers(self) -> int | None:
        """The most that a thread may have, so that ``resident`` programs fit; None: no bound."""
        return registers_for(WARPS * self.resident) if self.resident else None


def plan_for(size: int, added: bool, choices: int, keep: bool, quantize: bool) -> Plan:
    """As few warps share a row as can hold it, and a warp has one row or two at once.

    Programs stay where that is faster (bench/LOG.md, "Norms that read ahead"), as many as fit without
    spilling registers.
    """
    across = min(WARPS, triton.next_power_of_2(triton.cdiv(size, CHUNKS * WARP_COLUMNS)))
    tile = Tile(WARPS // across, across, triton.cdiv(size, across * WARP_COLUMNS))
    two_rows = tile._replace(ROWS=2 * tile.ROWS)
    is_even = tile.is_even(size)
    # Two where the parts of a sum have to be found first, and for narrow sums whose columns need masks, which
    # spill if they stay, and with some compilers if they do not.
    if choices > 0 or (across == 1 and added and not is_even):
        return Plan(two_rows, 0)
    if across == WARPS:
        return Plan(two_rows if quantize and not added else tile, 0)
    if (added and keep) or (across == 2 and (added or keep)):
        return Plan(tile, 0)
    if tile.CHUNKS <= 2:
        return Plan(tile, 6 if added or not is_even else 8)
    if added:
        return Plan(tile, 3)
    return Plan(tile, 4 if keep or not is_even or size > 2048 else 5)


def forward(
    rows: Tensor, delta: Tensor | None, due: Sequence[Tensor], w: Tensor, eps: float, out: Sequence[Tensor]
) -> None:
    """See ``norm_triton.forward``; of operands that ``rows_gluon.fits``."""
    y, r, summed, data, scale = out
    chosen, p, position = due or (rows, r, r)
    added, choices = delta is not None, position.shape[1] if due else 0
    keep, quantize = y.numel() > 0, data.numel() > 0
    plan = plan_for(rows.shape[1], added, choices, keep, quantize)
    # Scales are written beyond the last row too.
    count = max(rows.shape[0], scale.shape[1])
    programs = triton.cdiv(count, plan.tile.ROWS)
    if plan.resident:
        programs = min(programs, registry.multiprocessors(rows.device) * plan.resident)
    rms_norm_kernel[(programs,)](
        *(_seen_as(torch.int64, x) for x in (rows, rows if delta is None else delta, chosen)), p, position, w,
        *(_seen_as(torch.int64, x) for x in (summed, y)), r, _seen_as(torch.int32, data), scale,
        rows.shape[0], rows.shape[1] // 4, rows.stride(0) // 4, count, eps,
        ADD=added, CHOICES=choices, KEEP=keep, QUANTIZE=quantize, STAY=plan.resident > 0,
        **plan.tile._asdict(), EVEN=plan.tile.is_even(rows.shape[1]),
        num_warps=WARPS, maxnreg=plan.registers,
    )  # fmt: skip


def _seen_as(dtype: torch.dtype, x: Tensor) -> Tensor:
    return x.view(dtype) if x.numel() else x
