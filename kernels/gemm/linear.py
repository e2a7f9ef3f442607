"""The linear layer a model calls: one master weight, three precisions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import registry
from ..arguments import check_float, check_precision, check_same, check_same_device, check_tensor
from ..quantize import quantize_rows, quantize_tokens, transpose_shift
from ..types import RowQ, TokQ
from .matmul import PlainLinear
from .op import OUTPUTS, gemm, wgrad
from .weights import deliver_gradient, quantized_weight


def linear(x: Tensor, w: Tensor, precision: str = "bf16") -> Tensor:
    """``x @ w.T``.

    Parameters
    ----------
    x : Tensor [..., K]
    w : Tensor [N, K]
        The master weight, float32; its gradient is float32 in every precision.
    precision : {"fp32", "bf16", "fp8"}
        "fp8" quantises ``x`` and ``w`` here and the gradient in backward, and multiplies in FP8 all three
        times; the quantised weight is kept until ``w`` changes. On a CPU, and for sizes that are no multiple
        of 16, it multiplies what the bytes stand for in float32.

    Returns
    -------
    Tensor [..., N] in the dtype of ``x``; differentiable in ``x`` and ``w``, once.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or shape.
    """
    check_float("x", x)
    check_float("w", w)
    check_tensor("w", w, ndim=2)
    check_same("inner dimension", "x", x.shape[-1], "w", w.shape[1])
    check_same_device(x=x, w=w)
    check_precision(precision)
    rows = x.reshape(-1, x.shape[-1])
    out: Tensor
    if precision == "fp8":
        out = _Fp8Linear.apply(rows, w, registry.wgrad_recipe())  # type: ignore[no-untyped-call]
    else:
        compute = torch.bfloat16 if precision == "bf16" else torch.promote_types(x.dtype, torch.float32)
        if compute == x.dtype == w.dtype:
            return F.linear(x, w)
        out = PlainLinear.apply(rows, w, compute)  # type: ignore[no-untyped-call]
    return out.view(*x.shape[:-1], w.shape[0])


class _Fp8Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, recipe: str) -> Tensor:
        rows = quantize_rows(x)
        ctx.weight = quantized_weight(w)
        ctx.recipe, ctx.x_dtype = recipe, x.dtype
        ctx.save_for_backward(w, *saved_input(x, rows, recipe))
        return gemm(rows, ctx.weight, out_dtype=product_dtype(x)).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        w, *saved = ctx.saved_tensors
        grad = grads[0].contiguous()
        rows = quantize_rows(grad)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = gemm(rows, ctx.weight, transposed=True, out_dtype=product_dtype(grad)).to(ctx.x_dtype)
        dw = None
        if ctx.needs_input_grad[1]:
            g, x = wgrad_operands(grad, rows, saved, ctx.recipe)

            def write(out: Tensor, accumulate: bool) -> None:
                wgrad(g, x, out, accumulate)

            dw = deliver_gradient(w, write)
        return dx, dw, None


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype a product is written in so that it can become that of ``x``."""
    return x.dtype if x.dtype in OUTPUTS else torch.float32


def saved_input(x: Tensor, rows: RowQ, recipe: str) -> tuple[Tensor, ...]:
    """What backward needs of the input: its bytes (recipe shift), or itself to be cast along tokens (v3)."""
    return (x,) if recipe == "v3" else (rows.data, rows.scale)


def wgrad_operands(
    grad: Tensor, rows: RowQ, saved: list[Tensor], recipe: str
) -> tuple[RowQ | TokQ, RowQ | TokQ]:
    """Gradient and input with tokens contiguous, quantised as ``recipe`` says."""
    if recipe == "v3":
        return quantize_tokens(grad), quantize_tokens(saved[0])
    return transpose_shift(rows), transpose_shift(RowQ(saved[0], saved[1]))
