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
from ..states import S, States, as_given, check_states, states_of
from ..types import RowQ, TokQ, WeightQ
from .matmul import PlainLinear
from .op import OUTPUTS, gemm
from .weights import deliver_product, quantized_weight


def linear(x: S, w: Tensor, precision: str = "bf16") -> S:
    """``x @ w.T``.

    Parameters
    ----------
    x : Tensor or States [..., K]
        FP8 products read the rows of states that have them.
    w : Tensor [N, K]
        The master weight, float32; its gradient is float32 in every precision.
    precision : {"fp32", "bf16", "fp8"}
        "fp8" quantises ``x`` and ``w`` here and the gradient in backward, and multiplies in FP8 all three
        times; the quantised weight is kept until ``w`` changes. On a CPU, and for sizes that are no multiple
        of 16, it multiplies what the bytes stand for in float32.

    Returns
    -------
    The same as ``x``, [..., N] in its dtype; differentiable in ``x`` and ``w``, once.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or shape.
    """
    given = states_of(x)
    _check_input(given)
    _check_weight("w", w, given.values)
    check_precision(precision)
    if precision == "fp8":
        return as_given(x, _fp8_products(given, (w,))[0])
    return as_given(x, States(_plain_product(given.values, w, precision)))


def joint_linear(x: S, weights: Sequence[Tensor], precision: str = "bf16") -> tuple[S, ...]:
    """``x @ w.T`` for each of ``weights``.

    In FP8 the products share what is made of ``x``: one cast, and in backward one transposed copy.

    Parameters
    ----------
    x : Tensor or States [..., K]
    weights : sequence of Tensor [N, K]
        As for ``linear``; each has an N of its own.
    precision : {"fp32", "bf16", "fp8"}

    Returns
    -------
    tuple of what ``x`` is, [..., N] in its dtype, as many as weights; differentiable in all, once.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or shape.
    """
    if precision != "fp8":
        return tuple(linear(x, w, precision) for w in weights)
    given = states_of(x)
    _check_input(given)
    for i, w in enumerate(weights):
        _check_weight(f"weights[{i}]", w, given.values)
    return tuple(as_given(x, y) for y in _fp8_products(given, weights))


def _fp8_products(x: States, weights: Sequence[Tensor]) -> list[States]:
    values, leading = x.values, x.values.shape[:-1]
    matrix = values.reshape(-1, values.shape[-1])
    products = _Fp8Linear.apply(matrix, x.rows, registry.wgrad_recipe(), *weights)  # type: ignore[no-untyped-call]
    return [States(y.to(values.dtype).view(*leading, y.shape[1])) for y in products]


def _plain_product(x: Tensor, w: Tensor, precision: str) -> Tensor:
    compute = torch.bfloat16 if precision == "bf16" else torch.promote_types(x.dtype, torch.float32)
    if compute == x.dtype == w.dtype:
        return F.linear(x, w)
    out: Tensor = PlainLinear.apply(x.reshape(-1, x.shape[-1]), w, compute)  # type: ignore[no-untyped-call]
    return out.to(x.dtype).view(*x.shape[:-1], w.shape[0])


def _check_input(x: States) -> None:
    check_float("x", x.values)
    check_states("x", x)


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
        x, rows, recipe, *weights = arguments
        rows = quantize_rows(x) if rows is None else rows
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
        if any(ctx.needs_input_grad[3:]):
            x_t = along_tokens(saved, ctx.recipe)
            for i, w in enumerate(weights):
                if ctx.needs_input_grad[3 + i]:
                    gradients[i] = _weight_gradient(w, upstream[i], rows[i], x_t, ctx.recipe)
        return dx, None, None, *gradients


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
