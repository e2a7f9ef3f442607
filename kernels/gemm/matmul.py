"""Plain matrix products whose weight gradient is summed in float32 whatever they multiply in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import library
from .weights import cast_weight, deliver_gradient


def write_weight_gradient(out: Tensor, grad: Tensor, x: Tensor, accumulate: bool) -> None:
    """``out = grad.T @ x`` or ``out += grad.T @ x`` with ``out`` in float32 (or wider) all the way."""
    _outer(out, grad, x, accumulate)


@library.op(fake=library.writes, mutates=("out",))
def _outer(out: Tensor, grad: Tensor, x: Tensor, accumulate: bool) -> None:
    if grad.is_cuda and grad.dtype == torch.bfloat16:
        if accumulate:
            torch.addmm(out, grad.t(), x, out_dtype=torch.float32, out=out)
        else:
            torch.mm(grad.t(), x, out_dtype=torch.float32, out=out)
    elif accumulate:
        out.addmm_(grad.t().to(out.dtype), x.to(out.dtype))
    else:
        torch.mm(grad.t().to(out.dtype), x.to(out.dtype), out=out)


class PlainLinear(torch.autograd.Function):
    """``x @ w.T`` in ``compute``, for x [M, K] and a master weight w [N, K] of any wider dtype.

    Here and in other Functions the caller casts the result: dynamo of torch 2.11 loses the gradient of what
    ``.to`` returns as it is.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, compute: torch.dtype) -> Tensor:
        rows = x.to(compute)
        weight = cast_weight(w, compute)
        ctx.save_for_backward(rows, w)
        ctx.weight, ctx.x_dtype = weight, x.dtype
        return rows @ weight.t()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, w = ctx.saved_tensors
        grad = grads[0].to(rows.dtype)
        dx = (grad @ ctx.weight).to(ctx.x_dtype) if ctx.needs_input_grad[0] else None
        dw = None
        if ctx.needs_input_grad[1]:
            dw = deliver_gradient(w, lambda out, add: write_weight_gradient(out, grad, rows, add))
        return dx, dw, None
