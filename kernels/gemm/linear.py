"""The linear layer a model calls: one master weight, three precisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import registry
from ..arguments import check_float, check_precision, check_rows, check_same, check_same_device, check_tensor
from ..quantize import quantize_both, quantize_rows, quantize_tokens, transpose_shift
from ..states import S, States, as_given, check_states, received, states_of, takes_rows, with_places
from ..types import RowQ, TokQ
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
        return _fp8_products(x, (w,))[0]
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
    return _fp8_products(x, weights)


def _fp8_products(x: S, weights: Sequence[Tensor]) -> tuple[S, ...]:
    given, recipe = states_of(x), registry.wgrad_recipe()
    values, leading, n = given.values, given.values.shape[:-1], len(weights)
    # Recipe v3 needs gradients that are not quantised.
    places = isinstance(x, States) and recipe == "shift" and takes_rows()
    matrix = values.reshape(-1, values.shape[-1])
    # Each product of two has a place for its part of the gradient, unless rounding waits for their sum.
    apart = given.second is not None and n == 2 and values.dtype in OUTPUTS
    second = given.second.reshape(matrix.shape) if apart and given.second is not None else None
    made = _Fp8Linear.apply(matrix, second, given.rows, recipe, places, *weights)  # type: ignore[no-untyped-call]
    products = [y.to(values.dtype).view(*leading, y.shape[1]) for y in made[:n]]
    if not places:
        return tuple(as_given(x, States(y)) for y in products)
    gradients = [RowQ(*parts) for parts in zip(made[n::2], made[n + 1 :: 2], strict=True)]
    return tuple(as_given(x, States(y, None, g)) for y, g in zip(products, gradients, strict=True))


def _plain_product(x: Tensor, w: Tensor, precision: str) -> Tensor:
    compute = torch.bfloat16 if precision == "bf16" else torch.promote_types(x.dtype, torch.float32)
    if compute == x.dtype == w.dtype:
        return F.linear(x, w)
    out: Tensor = PlainLinear.apply(x.reshape(-1, x.shape[-1]), w, compute)  # type: ignore[no-untyped-call]
    return out.to(x.dtype).view(*x.shape[:-1], w.shape[0])


def _check_input(x: States) -> None:
    check_rows("x", x.values)
    check_states("x", x)


def _check_weight(name: str, w: Tensor, x: Tensor) -> None:
    check_float(name, w)
    check_tensor(name, w, ndim=2)
    check_same("inner dimension", "x", x.shape[-1], name, w.shape[1])
    check_same_device(**{"x": x, name: w})


class _Fp8Linear(torch.autograd.Function):
    """Products of one input with any number of weights, and if asked for the places of their gradients."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        # Unpacked here, since dynamo drops the context of a forward that ends in two variable arguments.
        x, second, rows, recipe, places, *weights = arguments
        rows = quantize_rows(x) if rows is None else rows
        ctx.recipe, ctx.x_dtype, ctx.n_weights = recipe, x.dtype, len(weights)
        ctx.quantized = [quantized_weight(w) for w in weights]
        ctx.save_for_backward(*weights, *saved_input(x, rows, recipe))
        ctx.written, ctx.apart = product_dtype(x), second is not None
        products = [gemm(rows, w, out_dtype=ctx.written) for w in ctx.quantized]
        return with_places(ctx, places, *products)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        n = ctx.n_weights
        weights, saved, upstream, sent = ctx.saved_tensors[:n], ctx.saved_tensors[n:], grads[:n], grads[n:]
        turned: Sequence[RowQ | None] = [None] * n
        if ctx.recipe == "v3":
            rows, turned = zip(*map(quantize_both, upstream), strict=True)
        else:
            rows = tuple(_rows(w, upstream[i], sent[2 * i : 2 * i + 2], saved) for i, w in enumerate(weights))
        dx: Sequence[Tensor | None] = (None, None)
        if ctx.needs_input_grad[0]:
            quantized = zip(rows, ctx.quantized, strict=True)
            parts = [gemm(a, w, transposed=True, out_dtype=ctx.written) for a, w in quantized]
            dx = parts if ctx.apart else [_sum(parts).to(ctx.x_dtype), None]
        gradients: list[Tensor | None] = [None] * n
        if any(ctx.needs_input_grad[5:]):
            x_t = along_tokens(saved, ctx.recipe)
            for i, w in enumerate(weights):
                if ctx.needs_input_grad[5 + i]:
                    gradients[i] = deliver_product(w, turned[i] or transpose_shift(rows[i]), x_t)
        return *dx, None, None, None, *gradients


def _rows(w: Tensor, grad: Tensor | None, sent: Sequence[Tensor], saved: Sequence[Tensor]) -> RowQ:
    """The gradient of one product, quantised here if it did not come so."""
    if grad is None and (not sent or sent[0] is None):  # an unused product among others
        return quantize_rows(saved[1].new_zeros(saved[0].shape[0], w.shape[0]))
    return received(grad, *sent)


def _sum(parts: list[Tensor]) -> Tensor:
    """Of all, in the memory of the first."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype a product is written in so that it can become that of ``x``."""
    return x.dtype if x.dtype in OUTPUTS else torch.float32


def saved_input(x: Tensor, rows: RowQ, recipe: str) -> tuple[Tensor, ...]:
    """What ``along_tokens`` needs of an input: its bytes (recipe shift), or itself to be cast again (v3)."""
    return (x,) if recipe == "v3" else (rows.data, rows.scale)


def along_tokens(saved: Sequence[Tensor], recipe: str) -> RowQ | TokQ:
    """What ``saved_input`` gave, with tokens contiguous, quantised as ``recipe`` says."""
    return quantize_tokens(saved[0]) if recipe == "v3" else transpose_shift(RowQ(saved[0], saved[1]))
