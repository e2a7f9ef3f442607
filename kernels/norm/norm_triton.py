"""RMSNorm in Triton, and the residual sum before it: everything is read once in either direction.

A program handles tiles of several rows, so that enough reads are under way; statistics are float32.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import library, registry
from ..quantize.op import fake_rows
from ..quantize.quantize_triton import cast_tiles
from ..states import States, without_memory
from ..types import BLOCK, RowQ

WARPS_PER_MULTIPROCESSOR = 16
"""Of the backward kernel, whose programs stay and keep a partial gradient of the weight each."""
ELEMENTS = 32
"""Of one operand's tile, in a thread. Backward on an H100, 1280 columns and a residual sum: 0.95 of copy,
with 16 elements and 24 warps 0.71. Half of them where backward may quantise, for want of registers."""


@triton.jit
def _store_quantized(x, m, d, q_ptr, s_ptr, M, D, s_stride, ROWS: tl.constexpr, BD: tl.constexpr):
    """Bytes and scales of whole rows, as ``quantize_rows`` makes them of what is stored of x."""
    q, scale = cast_tiles(tl.reshape(x.to(tl.float32), (ROWS, BD // 128, 128)))
    # Eight bytes a thread, as it has columns: else the whole kernel would take sixteen.
    at = tl.max_contiguous(m[:, None] * D + d[None, :], (1, 8))
    tl.store(q_ptr + at, tl.reshape(q, (ROWS, BD)), mask=(m < M)[:, None] & (d < D)[None, :])
    block = tl.arange(0, BD // 128)
    kept = (m < s_stride)[:, None] & (block < tl.cdiv(D, 128))[None, :]
    tl.store(s_ptr + block[None, :] * s_stride + m[:, None], scale, mask=kept)


@triton.jit
def _rms_norm_forward(
    x_ptr, delta_ptr, w_ptr, sum_ptr, y_ptr, r_ptr, q_ptr, s_ptr, M, D, x_stride, s_stride, eps,
    ADD: tl.constexpr, KEEP: tl.constexpr, QUANTIZE: tl.constexpr, ROWS: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The norm of x, or of x + delta rounded as ``sum`` holds it; stored as it is, or quantised, or both."""
    m = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, BD)
    inside = (m < M)[:, None] & (d < D)[None, :]
    at = m[:, None] * D + d[None, :]
    dtype = x_ptr.dtype.element_ty
    x = tl.load(x_ptr + m[:, None] * x_stride + d[None, :], mask=inside, other=0.0).to(tl.float32)
    if ADD:
        delta = tl.load(delta_ptr + at, mask=inside, other=0.0).to(tl.float32)
        total = (x + delta).to(dtype)
        tl.store(sum_ptr + at, total, mask=inside)
        x = total.to(tl.float32)
    r = tl.rsqrt(tl.sum(x * x, 1) / D + eps)
    w = tl.load(w_ptr + d, mask=d < D, other=0.0).to(dtype).to(tl.float32)
    y = ((x * r[:, None]).to(dtype).to(tl.float32) * w[None, :]).to(dtype)
    tl.store(r_ptr + m, r, mask=m < M)
    if KEEP:
        tl.store(y_ptr + at, y, mask=inside)
    if QUANTIZE:
        _store_quantized(y, m, d, q_ptr, s_ptr, M, D, s_stride, ROWS, BD)


@triton.jit
def _rms_norm_backward(
    dy_ptr, more_ptr, x_ptr, w_ptr, r_ptr, dsum_ptr, dx_ptr, dw_ptr, q_ptr, s_ptr, M, D, x_stride, s_stride,
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
            _store_quantized(dx, m, d, q_ptr, s_ptr, M, D, s_stride, ROWS, BD)
    tl.store(dw_ptr + tl.program_id(0).to(tl.int64) * D + d, dw, mask=d < D)


def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """See ``op.rms_norm``."""
    return add_rms_norm(x, None, w, eps)[1]


def add_rms_norm(x: Tensor, delta: Tensor | None, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See ``op.add_rms_norm``."""
    total, y = _AddRmsNorm.apply(x, delta, None, None, w, eps, True, False)  # type: ignore[no-untyped-call]
    return total, y


def add_rms_norm_quantize(
    x: Tensor, delta: States | None, w: Tensor, eps: float, keep: bool
) -> tuple[Tensor, States]:
    """See ``op.add_rms_norm_quantize``."""
    added = None if delta is None else delta.values
    place = (None, None) if delta is None or delta.gradient is None else delta.gradient.parts
    total, y, second, *rows = _AddRmsNorm.apply(x, added, *place, w, eps, keep, True)  # type: ignore[no-untyped-call]
    return total, States(y, RowQ(*rows), second=second)


class _AddRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        x, delta, place, _, w, eps, keep, quantize = arguments
        y, r, added, *rows = _add_rms_norm(x, delta, w, eps, keep, quantize)
        total = x if delta is None else added
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(total, w, r)
        ctx.narrow, ctx.quantize = quantize, place is not None
        if not keep:
            y = without_memory(x)
        if not quantize:
            return total, y
        ctx.mark_non_differentiable(*rows)
        return total, y, without_memory(x), *rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        total, w, r = ctx.saved_tensors
        dsum, dy, more = grads[0], grads[1], grads[2] if ctx.narrow else None
        if dy is None:
            dy, more = more, None
        unused = (None,) * 3
        if dy is None:
            return dsum, dsum if ctx.needs_input_grad[1] else None, None, None, None, *unused
        given = (dsum, dy, more, total, w, r)
        # The tile hangs on the forward pass alone: a compiler, which sees no places, gets the same sums.
        dx, dw, data, scale = _add_rms_norm_backward(*given, ctx.narrow, ctx.quantize)
        if ctx.quantize:
            return dx, None, data, scale, dw, *unused
        return dx, dx if ctx.needs_input_grad[1] else None, None, None, dw, *unused


Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _empty(x: Tensor, delta: Tensor | None, w: Tensor, eps: float, keep: bool, quantize: bool) -> Five:
    rows = x.shape[:-1].numel() if x.shape[-1] else 0
    y, total = x.new_empty(x.shape if keep else 0), x.new_empty(0 if delta is None else x.shape)
    quantized = fake_rows(rows, x.shape[-1], x.device) if quantize else fake_rows(0, 0, x.device)
    return y, x.new_empty(rows, dtype=torch.float32), total, *quantized


@library.op(fake=_empty)
def _add_rms_norm(x: Tensor, delta: Tensor | None, w: Tensor, eps: float, keep: bool, quantize: bool) -> Five:
    """The norm, the factor of each row, the sum, bytes and scales; nothing for a sum of one, and for what is
    not asked for.
    """
    size, rows = x.shape[-1], _rows(x)
    y, r, total, data, scale = _empty(x, delta, w, eps, keep, quantize)
    if rows.numel():
        tile, block, warps = tile_for(size)
        added = x if delta is None else delta.contiguous()
        # Scales are written beyond the last row too.
        count = scale.shape[1] if quantize else rows.shape[0]
        _rms_norm_forward[(triton.cdiv(count, tile),)](
            rows, added, w, x if delta is None else total, y, r, data, scale,
            rows.shape[0], size, rows.stride(0), count, eps,
            ADD=delta is not None, KEEP=keep, QUANTIZE=quantize, ROWS=tile, BD=block, num_warps=warps,
        )  # fmt: skip
    return y, r, total, data, scale


Four = tuple[Tensor, Tensor, Tensor, Tensor]


def _empty_gradients(
    dsum: Tensor | None, dy: Tensor, more: Tensor | None, total: Tensor, w: Tensor, r: Tensor,
    narrow: bool, quantize: bool,
) -> Four:  # fmt: skip
    quantized = fake_rows(r.shape[0] if quantize else 0, total.shape[-1] if quantize else 0, r.device)
    return total.new_empty(total.shape), torch.empty_like(w), *quantized


@library.op(fake=_empty_gradients)
def _add_rms_norm_backward(
    dsum: Tensor | None, dy: Tensor, more: Tensor | None, total: Tensor, w: Tensor, r: Tensor,
    narrow: bool, quantize: bool,
) -> Four:  # fmt: skip
    """The gradient of the sum and that of the weight; if asked for bytes and scales of the former."""
    size, rows = total.shape[-1], _rows(total)
    tile, block, warps, stages = backward_tile_for(size, narrow)
    dx, _, data, scale = _empty_gradients(dsum, dy, more, total, w, r, narrow, quantize)
    # Scales are written beyond the last row too.
    count = scale.shape[1] if quantize else rows.shape[0]
    resident = registry.multiprocessors(total.device) * (WARPS_PER_MULTIPROCESSOR // warps)
    programs = min(triton.cdiv(count, tile), resident)
    partial = torch.empty(programs, size, dtype=torch.float32, device=dx.device)
    joined, added = (dy if part is None else part.contiguous() for part in (more, dsum))
    if dx.numel():
        _rms_norm_backward[(programs,)](
            dy.contiguous(), joined, rows, w, r, added, dx, partial, data, scale,
            rows.shape[0], size, rows.stride(0), count, ADD=dsum is not None, JOIN=more is not None,
            QUANTIZE=quantize, ROWS=tile, BD=block, STAGES=stages, num_warps=warps,
        )  # fmt: skip
    return dx, partial.sum(0).to(w.dtype), data, scale


def _rows(x: Tensor) -> Tensor:
    """``x`` as a matrix, copied only if its rows are not whole or not evenly spaced."""
    rows = x.reshape(-1, x.shape[-1]) if x.numel() else x.new_empty(0, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def tile_for(size: int) -> tuple[int, int, int]:
    """Rows and columns of a tile, and warps: eight columns a thread, so that a column stays in one."""
    block = max(BLOCK, triton.next_power_of_2(size))
    warps = min(16, max(1, block // 256))
    return max(1, ELEMENTS * 32 * warps // block), block, warps


def backward_tile_for(size: int, narrow: bool) -> tuple[int, int, int, int]:
    """The same for the backward kernel, and how many tiles of a program are under way at once.

    ``narrow`` leaves registers to quantise with.
    """
    rows, block, warps = tile_for(size)
    # Wide rows leave a thread more than eight columns, and backward fewer registers.
    wide = block > 4096
    stages = 2 if wide or not narrow else 4 if block > 512 else 3
    return max(1, rows // 2 if wide or narrow else rows), block, warps, stages
