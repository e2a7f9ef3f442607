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

WARPS_PER_MULTIPROCESSOR = 16
"""Of the backward kernel, whose programs stay and keep a partial gradient of the weight each."""
ELEMENTS = 32
"""Of one operand's tile, in a thread. Backward on an H100, 1280 columns and a residual sum: 0.95 of copy,
with 16 elements and 24 warps 0.71."""
BACKWARD_STAGES = tl.constexpr(2)
"""Tiles under way at once in a program of the backward kernel."""


@triton.jit
def _rms_norm_forward(
    x_ptr, delta_ptr, w_ptr, sum_ptr, y_ptr, r_ptr, M, D, x_stride, eps,
    ADD: tl.constexpr, ROWS: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The norm of x, or of x + delta rounded as ``sum`` holds it."""
    m = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, BD)
    inside = (m < M)[:, None] & (d < D)[None, :]
    at = m[:, None] * D + d[None, :]
    dtype = y_ptr.dtype.element_ty
    x = tl.load(x_ptr + m[:, None] * x_stride + d[None, :], mask=inside, other=0.0).to(tl.float32)
    if ADD:
        delta = tl.load(delta_ptr + at, mask=inside, other=0.0).to(tl.float32)
        total = (x + delta).to(dtype)
        tl.store(sum_ptr + at, total, mask=inside)
        x = total.to(tl.float32)
    r = tl.rsqrt(tl.sum(x * x, 1) / D + eps)
    w = tl.load(w_ptr + d, mask=d < D, other=0.0).to(dtype).to(tl.float32)
    y = (x * r[:, None]).to(dtype).to(tl.float32) * w[None, :]
    tl.store(y_ptr + at, y.to(dtype), mask=inside)
    tl.store(r_ptr + m, r, mask=m < M)


@triton.jit
def _rms_norm_backward(
    dy_ptr, x_ptr, w_ptr, r_ptr, dsum_ptr, dx_ptr, dw_ptr, M, D, x_stride,
    ADD: tl.constexpr, ROWS: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Gradient of what was normed, plus what else flows into it; and a partial gradient of the weight."""
    d = tl.arange(0, BD)
    w = tl.load(w_ptr + d, mask=d < D, other=0.0).to(x_ptr.dtype.element_ty).to(tl.float32)
    dw = tl.zeros((BD,), tl.float32)
    tiles = tl.cdiv(M, ROWS)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), num_stages=BACKWARD_STAGES):
        m = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = (m < M)[:, None] & (d < D)[None, :]
        at = m[:, None] * D + d[None, :]
        x = tl.load(x_ptr + m[:, None] * x_stride + d[None, :], mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + at, mask=inside, other=0.0).to(tl.float32)
        normal = x * tl.load(r_ptr + m, mask=m < M, other=0.0)[:, None]
        dw += tl.sum(dy * normal, 0)
        g = dy * w[None, :]
        dx = g - normal * (tl.sum(g * normal, 1) / D)[:, None]
        dx *= tl.load(r_ptr + m, mask=m < M, other=0.0)[:, None]
        if ADD:
            dx += tl.load(dsum_ptr + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=inside)
    tl.store(dw_ptr + tl.program_id(0).to(tl.int64) * D + d, dw, mask=d < D)


def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """See ``op.rms_norm``."""
    return add_rms_norm(x, None, w, eps)[1]


def add_rms_norm(x: Tensor, delta: Tensor | None, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See ``op.add_rms_norm``."""
    total, y = _AddRmsNorm.apply(x, delta, w, eps)  # type: ignore[no-untyped-call]
    return total, y


class _AddRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor | None, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        y, r, added = _add_rms_norm(x, delta, w, eps)
        total = x if delta is None else added
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(total, w, r)
        return total, y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        total, w, r = ctx.saved_tensors
        dsum, dy = grads
        if dy is None:
            return dsum, dsum if ctx.needs_input_grad[1] else None, None, None
        dx, dw = _add_rms_norm_backward(dsum, dy, total, w, r)
        return dx, dx if ctx.needs_input_grad[1] else None, dw, None


def _empty(x: Tensor, delta: Tensor | None, w: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.shape[:-1].numel() if x.shape[-1] else 0
    total = x.new_empty(0 if delta is None else x.shape)
    return x.new_empty(x.shape), x.new_empty(rows, dtype=torch.float32), total


@library.op(fake=_empty)
def _add_rms_norm(x: Tensor, delta: Tensor | None, w: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The norm, the factor of each row, and the sum; nothing for a sum of one."""
    size, rows = x.shape[-1], _rows(x)
    y, r, total = _empty(x, delta, w, eps)
    if y.numel():
        tile, block, warps = tile_for(size)
        added = x if delta is None else delta.contiguous()
        _rms_norm_forward[(triton.cdiv(rows.shape[0], tile),)](
            rows, added, w, x if delta is None else total, y, r, rows.shape[0], size, rows.stride(0), eps,
            ADD=delta is not None, ROWS=tile, BD=block, num_warps=warps,
        )  # fmt: skip
    return y, r, total


@library.op(fake=lambda dsum, dy, total, w, r: (total.new_empty(total.shape), torch.empty_like(w)))
def _add_rms_norm_backward(
    dsum: Tensor | None, dy: Tensor, total: Tensor, w: Tensor, r: Tensor
) -> tuple[Tensor, Tensor]:
    size, rows = total.shape[-1], _rows(total)
    tile, block, warps = tile_for(size, backward=True)
    resident = registry.multiprocessors(total.device) * (WARPS_PER_MULTIPROCESSOR // warps)
    programs = min(triton.cdiv(rows.shape[0], tile), resident)
    dx = torch.empty(total.shape, dtype=total.dtype, device=total.device)
    partial = torch.empty(programs, size, dtype=torch.float32, device=dx.device)
    added = dy if dsum is None else dsum.contiguous()
    if dx.numel():
        _rms_norm_backward[(programs,)](
            dy.contiguous(), rows, w, r, added, dx, partial, rows.shape[0], size, rows.stride(0),
            ADD=dsum is not None, ROWS=tile, BD=block, num_warps=warps,
        )  # fmt: skip
    return dx, partial.sum(0).to(w.dtype)


def _rows(x: Tensor) -> Tensor:
    """``x`` as a matrix, copied only if its rows are not whole or not evenly spaced."""
    rows = x.reshape(-1, x.shape[-1]) if x.numel() else x.new_empty(0, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def tile_for(size: int, backward: bool = False) -> tuple[int, int, int]:
    """Rows and columns of a tile, and warps: eight columns a thread, so that a column stays in one."""
    block = triton.next_power_of_2(size)
    warps = min(16, max(1, block // 256))
    # Wide rows leave a thread more than eight columns, and backward fewer registers.
    elements = ELEMENTS // 2 if backward and block > 4096 else ELEMENTS
    return max(1, elements * 32 * warps // block), block, warps
