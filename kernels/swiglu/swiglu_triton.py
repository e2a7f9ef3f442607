"""SwiGLU in Triton: one pass forward, one pass backward."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import library

BLOCK_COLUMNS = 1024


@triton.jit
def _swiglu_forward(h_ptr, y_ptr, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < columns
    gate = tl.load(h_ptr + row * 2 * columns + i, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(h_ptr + row * 2 * columns + columns + i, mask=inside, other=0.0).to(tl.float32)
    y = gate * tl.sigmoid(gate) * up
    tl.store(y_ptr + row * columns + i, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_backward(dy_ptr, h_ptr, dh_ptr, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < columns
    at = row * 2 * columns + i
    gate = tl.load(h_ptr + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(h_ptr + at + columns, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + row * columns + i, mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    dgate = dy * up * (sigmoid + silu * (1.0 - sigmoid))
    tl.store(dh_ptr + at, dgate.to(dh_ptr.dtype.element_ty), mask=inside)
    tl.store(dh_ptr + at + columns, (dy * silu).to(dh_ptr.dtype.element_ty), mask=inside)


def swiglu(h: Tensor) -> Tensor:
    """See ``op.swiglu``."""
    out: Tensor = _SwiGlu.apply(h)  # type: ignore[no-untyped-call]
    return out


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        h = h.contiguous()
        ctx.save_for_backward(h)
        return _swiglu(h)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (h,) = ctx.saved_tensors
        return _gradient(grads[0].contiguous(), h)


def _empty(h: Tensor) -> Tensor:
    return h.new_empty(*h.shape[:-1], h.shape[-1] // 2)


@library.op(fake=_empty)
def _swiglu(h: Tensor) -> Tensor:
    y = _empty(h)
    if y.numel():
        _swiglu_forward[_grid(y)](h, y, y.shape[-1], BLOCK=BLOCK_COLUMNS)
    return y


@library.op(fake=lambda dy, h: h.new_empty(h.shape), name="swiglu_backward")
def _gradient(dy: Tensor, h: Tensor) -> Tensor:
    dh = torch.empty_like(h)
    if dy.numel():
        _swiglu_backward[_grid(dy)](dy, h, dh, dy.shape[-1], BLOCK=BLOCK_COLUMNS)
    return dh


def _grid(y: Tensor) -> tuple[int, int]:
    columns = y.shape[-1]
    return y.numel() // columns, triton.cdiv(columns, BLOCK_COLUMNS)
