"""A gated feed-forward layer that every token goes through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import (
    check_float,
    check_precision,
    check_rows,
    check_same,
    check_same_device,
    check_shape,
    check_tensor,
)
from ..gemm.linear import linear, product_dtype
from ..gemm.op import gemm
from ..gemm.weights import deliver_product, quantized_weight
from ..quantize import quantize_rows, transpose_shift
from ..states import (
    S,
    States,
    as_given,
    check_states,
    reads_rows,
    received,
    states_of,
    takes_rows,
    with_places,
)
from ..swiglu import swiglu, swiglu_backward_quantize, swiglu_quantize
from ..types import BLOCK, RowQ


def feed_forward(x: S, gate_up: Tensor, down: Tensor, precision: str = "bf16") -> S:
    """``(silu(x @ gate.T) * (x @ up.T)) @ down.T``.

    Parameters
    ----------
    x : Tensor or States [..., D]
    gate_up : Tensor [2 * I, D]
        Master weights, float32, gate first.
    down : Tensor [D, I]
    precision : {"fp32", "bf16", "fp8"}
        As for ``gemm.linear``. In FP8 with recipe ``shift`` and I a multiple of 128 nothing is cast that a
        product wrote: SwiGLU quantises what it computes, in every layout that is needed later.

    Returns
    -------
    The same as ``x``, [..., D] in its dtype; differentiable in all three, once.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or shape.
    """
    given = states_of(x)
    values = given.values
    check_rows("x", values)
    check_states("x", given)
    check_weights(values, gate_up, down)
    check_precision(precision)
    if not reads_rows(precision):
        y = linear(swiglu(linear(values, gate_up, precision)), down, precision)
        return as_given(x, States(y))
    if down.shape[-1] % BLOCK:  # a block would hold both gate and up
        h = linear(given, gate_up, precision)
        return as_given(x, linear(States(swiglu(h.values)), down, precision))
    matrix = values.reshape(-1, values.shape[-1])
    places = isinstance(x, States) and takes_rows()
    out, *parts = _Fp8FeedForward.apply(matrix, given.rows, places, gate_up, down)  # type: ignore[no-untyped-call]
    y = out.to(values.dtype).view(*values.shape[:-1], down.shape[0])
    return as_given(x, States(y, None, RowQ(*parts) if parts else None))


def check_weights(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    experts: Sequence[int] = (),
    names: tuple[str, str] = ("gate_up", "down"),
) -> None:
    """Raise TypeError or ValueError unless two weights, stacks of ``experts``, fit ``x`` and one another."""
    for name, w in zip(names, (gate_up, down), strict=True):
        check_float(name, w)
        check_tensor(name, w, ndim=2 + len(experts))
        check_same_device(**{"x": x, name: w})
    check_same("inner dimension", "x", x.shape[-1], names[0], gate_up.shape[-1])
    check_shape(names[0], gate_up, (*experts, 2 * down.shape[-1], x.shape[-1]))
    check_shape(names[1], down, (*experts, *down.shape[-2:]))


class _Fp8FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rows: RowQ | None, places: bool, gate_up: Tensor, down: Tensor
    ) -> tuple[Tensor, ...]:
        rows = quantize_rows(x) if rows is None else rows
        h, out = forward(rows, gate_up, down, product_dtype(x))
        ctx.save_for_backward(rows.data, rows.scale, h, gate_up, down)
        ctx.x_dtype = x.dtype
        return with_places(ctx, places, out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        data, scale, h, gate_up, down = ctx.saved_tensors
        dx, d_gate_up, d_down = backward(received(*grads), RowQ(data, scale), h, gate_up, down)
        return dx.to(ctx.x_dtype), None, None, d_gate_up, d_down


def forward(x: RowQ, gate_up: Tensor, down: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What backward needs, [T, 2 * I], and the result [T, D], both in ``dtype``."""
    h = gemm(x, quantized_weight(gate_up), out_dtype=dtype)
    return h, gemm(swiglu_quantize(h), quantized_weight(down), out_dtype=dtype)


def backward(
    grad: RowQ, x: RowQ, h: Tensor, gate_up: Tensor, down: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of ``x``, ``gate_up`` and ``down``; None for a weight whose ``.grad`` has it already."""
    ds = gemm(grad, quantized_weight(down), transposed=True, out_dtype=h.dtype)
    back = swiglu_backward_quantize(ds, h)
    dx = gemm(back.dh, quantized_weight(gate_up), transposed=True, out_dtype=h.dtype)
    d_down = deliver_product(down, transpose_shift(grad), back.s_t)
    return dx, deliver_product(gate_up, back.dh_t, transpose_shift(x)), d_down
