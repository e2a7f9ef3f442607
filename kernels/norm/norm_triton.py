"""RMSNorm in Triton: one pass over a row forward, one pass backward; statistics in float32."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS_PER_MULTIPROCESSOR = 4
"""Of the backward kernel, which keeps a partial gradient of the weight in each program."""


@triton.jit
def _forward(x_ptr, w_ptr, y_ptr, r_ptr, D, eps, BD: tl.constexpr):
    m = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BD)
    x = tl.load(x_ptr + m * D + d, mask=d < D, other=0.0).to(tl.float32)
    r = tl.rsqrt(tl.sum(x * x, 0) / D + eps)
    dtype = y_ptr.dtype.element_ty
    w = tl.load(w_ptr + d, mask=d < D, other=0.0).to(dtype).to(tl.float32)
    y = (x * r).to(dtype).to(tl.float32) * w
    tl.store(y_ptr + m * D + d, y.to(dtype), mask=d < D)
    tl.store(r_ptr + m, r)


@triton.jit
def _backward(dy_ptr, x_ptr, w_ptr, r_ptr, dx_ptr, dw_ptr, M, D, BD: tl.constexpr):
    d = tl.arange(0, BD)
    w = tl.load(w_ptr + d, mask=d < D, other=0.0).to(x_ptr.dtype.element_ty).to(tl.float32)
    dw = tl.zeros((BD,), tl.float32)
    for row in range(tl.program_id(0), M, tl.num_programs(0)):
        at = row * tl.cast(D, tl.int64) + d
        x = tl.load(x_ptr + at, mask=d < D, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + at, mask=d < D, other=0.0).to(tl.float32)
        r = tl.load(r_ptr + row)
        normal = x * r
        dw += dy * normal
        g = dy * w
        dx = r * (g - normal * (tl.sum(g * normal, 0) / D))
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=d < D)
    tl.store(dw_ptr + tl.program_id(0).to(tl.int64) * D + d, dw, mask=d < D)


def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """See ``op.rms_norm``."""
    out: Tensor = _RmsNorm.apply(x, w, eps)  # type: ignore[no-untyped-call]
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        size = x.shape[-1]
        rows = x.numel() // max(size, 1)
        y = torch.empty_like(x)
        r = torch.empty(rows, dtype=torch.float32, device=x.device)
        if rows:
            _forward[(rows,)](x, w, y, r, size, eps, BD=triton.next_power_of_2(size), num_warps=_warps(size))
        ctx.save_for_backward(x, w, r)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, w, r = ctx.saved_tensors
        size = x.shape[-1]
        programs = min(r.shape[0], PROGRAMS_PER_MULTIPROCESSOR * _multiprocessors(x.device))
        dx = torch.empty_like(x)
        partial = torch.empty(programs, size, dtype=torch.float32, device=x.device)
        if programs:
            block = triton.next_power_of_2(size)
            arguments = (grads[0].contiguous(), x, w, r, dx, partial, r.shape[0], size)
            _backward[(programs,)](*arguments, BD=block, num_warps=_warps(size))
        return dx, partial.sum(0).to(w.dtype), None


def _warps(size: int) -> int:
    warps: int = min(16, max(1, triton.next_power_of_2(size) // 512))
    return warps


@cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
