"""The linear layer a model calls: one master weight, three precisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import registry
from ..arguments import check_float, check_precision, check_same, check_same_device, check_tensor
from ..quantize import quantize_rows, quantize_tokens, transpose_shift
from ..types import RowQ, TokQ, WeightQ
from .matmul import PlainLinear
from .op import OUTPUTS, gemm
from .weights import deliver_product, quantized_weight


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
    _check_weight("w", w, x)
    check_precision(precision)
    rows = x.reshape(-1, x.shape[-1])
    out: Tensor
    if precision == "fp8":
        (out,) = _Fp8Linear.apply(rows, registry.wgrad_recipe(), w)  # type: ignore[no-untyped-call]
    else:
        compute = torch.bfloat16 if precision == "bf16" else torch.promote_types(x.dtype, torch.float32)
        if compute == x.dtype == w.dtype:
            return F.linear(x, w)
        out = PlainLinear.apply(rows, w, compute)  # type: ignore[no-untyped-call]
    return out.to(x.dtype).view(*x.shape[:-1], w.shape[0])


def joint_linear(x: Tensor, weights: Sequence[Tensor], precision: str = "bf16") -> tuple[Tensor, ...]:
    """``x @ w.T`` for each of ``weights``.

    In FP8 the products share what is made of ``x``: one cast, and in backward one transposed copy.

    Parameters
    ----------
    x : Tensor [..., K]
    weights : sequence of Tensor [N, K]
        As for ``linear``; each has an N of its own.
    precision : {"fp32", "bf16", "fp8"}

    Returns
    -------
    tuple of Tensors [..., N] in the dtype of ``x``, as many as weights; differentiable in all, once.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or shape.
    """
    if precision != "fp8":
        return tuple(linear(x, w, precision) for w in weights)
    check_float("x", x)
    for i, w in enumerate(weights):
        _check_weight(f"weights[{i}]", w, x)
    rows = x.reshape(-1, x.shape[-1])
    products = _Fp8Linear.apply(rows, registry.wgrad_recipe(), *weights)  # type: ignore[no-untyped-call]
    return tuple(y.to(x.dtype).view(*x.shape[:-1], y.shape[1]) for y in products)


def _check_weight(name: str, w: Tensor, x: Tensor) -> None:
    check_float(name, w)
    check_tensor(name, w, ndim=2)
    check_same("inner dimension", "x", x.shape[-1], name, w.shape[1])
    check_same_device(**{"x": x, name: w})


class _Fp8Linear(torch.autograd.Function):
    """Products of one input with any number of weights."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        # Unpacked here, since dynamo drops the context of a forward that ends in two variable arguments.
        x, recipe, *weights = arguments
        rows = quantize_rows(x)
        ctx.recipe, ctx.x_dtype, ctx.n_weights = recipe, x.dtype, len(weights)
        ctx.quantized = [quantized_weight(w) for w in weights]
        ctx.save_for_backward(*weights, *saved_input(x, rows, recipe))
        dtype = product_dtype(x)
        return tuple(gemm(rows, w, out_dtype=dtype) for w in ctx.quantized)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weights, saved = ctx.saved_tensors[: ctx.n_weights], ctx.saved_tensors[ctx.n_weights :]
        upstream = [g.contiguous() for g in grads]
        rows = [quantize_rows(g) for g in upstream]
        dx = (
            _input_gradient(rows, ctx.quantized, upstream[0], ctx.x_dtype)
            if ctx.needs_input_grad[0]
            else None
        )
        gradients: list[Tensor | None] = [None] * len(weights)
        if any(ctx.needs_input_grad[2:]):
            x_t = along_tokens(saved, ctx.recipe)
            for i, w in enumerate(weights):
                if ctx.needs_input_grad[2 + i]:
                    gradients[i] = _weight_gradient(w, upstream[i], rows[i], x_t, ctx.recipe)
        return dx, None, *gradients


def _input_gradient(rows: list[RowQ], weights: list[WeightQ], like: Tensor, dtype: torch.dtype) -> Tensor:
    parts = [
        gemm(a, w, transposed=True, out_dtype=product_dtype(like)) for a, w in zip(rows, weights, strict=True)
    ]
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total.to(dtype)


def _weight_gradient(w: Tensor, grad: Tensor, rows: RowQ, x_t: RowQ | TokQ, recipe: str) -> Tensor | None:
    return deliver_product(w, along_tokens(saved_input(grad, rows, recipe), recipe), x_t)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype a product is written in so that it can become that of ``x``."""
    return x.dtype if x.dtype in OUTPUTS else torch.float32


def saved_input(x: Tensor, rows: RowQ, recipe: str) -> tuple[Tensor, ...]:
    """What ``along_tokens`` needs of an input: its bytes (recipe shift), or itself to be cast again (v3)."""
    return (x,) if recipe == "v3" else (rows.data, rows.scale)


def wgrad_operands(
    grad: Tensor, rows: RowQ, saved: list[Tensor], recipe: str
) -> tuple[RowQ | TokQ, RowQ | TokQ]:
    """Gradient and input with tokens contiguous, quantised as ``recipe`` says."""
    return along_tokens(saved_input(grad, rows, recipe), recipe), along_tokens(saved, recipe)


def along_tokens(saved: Sequence[Tensor], recipe: str) -> RowQ | TokQ:
    """What ``saved_input`` gave, with tokens contiguous, quantised as ``recipe`` says."""
    return quantize_tokens(saved[0]) if recipe == "v3" else transpose_shift(RowQ(saved[0], saved[1]))
