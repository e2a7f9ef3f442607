"""The experts' gated feed-forward layers: rows out to them, through them, and back in a weighted sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..arguments import (
    check_float,
    check_precision,
    check_same,
    check_same_device,
    check_shape,
    check_tensor,
)
from ..gemm.linear import product_dtype
from ..gemm.weights import deliver_gradient, quantized_weight
from ..grouped_gemm.linear import grouped_linear
from ..grouped_gemm.op import check_groups, grouped_gemm, grouped_wgrad
from ..permute import combine, permute, permute_rows
from ..permute.op import gather_sum
from ..permute.reference import row_weights
from ..quantize import quantize_rows, transpose_shift
from ..states import (
    Combination,
    S,
    Spread,
    States,
    as_given,
    check_states,
    reads_rows,
    received,
    states_of,
    takes_rows,
    with_places,
    without_memory,
)
from ..swiglu import swiglu, swiglu_backward_quantize, swiglu_quantize
from ..types import BLOCK, Groups, RowQ, TokQ
from . import dense


def expert_feed_forward(
    x: S,
    p: Tensor,
    gate_up: Tensor,
    down: Tensor,
    groups: Groups,
    precision: str = "bf16",
    shared: tuple[Tensor, Tensor] | None = None,
) -> S:
    """Each token through the experts it chose, their outputs summed with the weights ``p``.

    Parameters
    ----------
    x : Tensor or States [T, D]
    p : float32 Tensor [T, k]
        Weights of the choices.
    gate_up : Tensor [E, 2 * I, D]
        Master weights, float32, gate first.
    down : Tensor [E, D, I]
    groups : Groups
        Of block 128 for "fp8".
    precision : {"fp32", "bf16", "fp8"}
        As for ``grouped_gemm.grouped_linear``. In FP8 with recipe ``shift`` a token is quantised once, its
        bytes are copied to its experts, and a weight of a choice enters backward inside SwiGLU.
    shared : pair of Tensors, optional
        ``gate_up`` [2 * J, D] and ``down`` [D, J] of a layer that every token goes through as well: its
        output is added. It shares the casts of ``x`` and of the gradient.

    Returns
    -------
    The same as ``x``, [T, D] in its dtype; differentiable in all but ``groups``, once. Tokens that are not
    routed get what ``shared`` gives them, or zero. States may leave the sum to the norm behind them
    (``States.combination``).

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or shape, or the groups do not suit the precision.
    """
    given = states_of(x)
    values = given.values
    _check(values, p, gate_up, down, groups, precision, shared)
    check_states("x", given)
    if given.spread is not None:
        check_shape("x.spread.rows", given.spread.rows, (groups.n_rows, values.shape[1]))
        check_shape("x.spread.places", given.spread.places, (p.shape[0], 4 * p.shape[1]))
    if reads_rows(precision):
        weights = (gate_up, down, *(shared or ()))
        # What takes the gradient quantised is a norm, which also makes the sum.
        places = isinstance(x, States) and takes_rows()
        # The router reads the values themselves.
        reader = values if given.second is None else given.second
        spread = (None, None) if given.spread is None else given.spread.parts
        out, *parts = _Fp8Experts.apply(reader, given.rows, places, *spread, p, groups, *weights)  # type: ignore[no-untyped-call]
        if not places:
            return as_given(x, States(out.to(values.dtype)))
        data, scale, y, *extra = parts
        due = Combination(y, p.detach(), groups, extra[0] if extra else None)
        return as_given(x, States(out, None, RowQ(data, scale), combination=due))
    h = grouped_linear(permute(values, groups), gate_up, groups, precision)
    y = combine(grouped_linear(swiglu(h), down, groups, precision), p, groups)
    return as_given(x, States(y if shared is None else y + dense.feed_forward(values, *shared, precision)))


def _check(
    x: Tensor,
    p: Tensor,
    gate_up: Tensor,
    down: Tensor,
    groups: Groups,
    precision: str,
    shared: tuple[Tensor, Tensor] | None,
) -> None:
    check_float("x", x)
    check_tensor("x", x, ndim=2)
    check_float("p", p)
    check_precision(precision)
    check_groups(groups, block=BLOCK if precision == "fp8" else None)
    check_same("tokens", "x", x.shape[0], "groups", groups.token_pos.shape[0])
    check_shape("p", p, groups.token_pos.shape)
    check_same_device(x=x, p=p, groups=groups.offsets)
    dense.check_weights(x, gate_up, down, (groups.n_experts,))
    check_same("outer dimension", "x", x.shape[1], "down", down.shape[1])
    if shared is None:
        return
    if not isinstance(shared, (tuple, list)) or len(shared) != 2:
        raise TypeError(f"shared: expected a pair of tensors, got {type(shared).__name__}")
    dense.check_weights(x, *shared, names=("shared[0]", "shared[1]"))
    check_same("outer dimension", "x", x.shape[1], "shared[1]", shared[1].shape[0])


class _Fp8Experts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        x, rows, places, spread, _, p, groups, gate_up, down, *shared = arguments  # see `gemm.linear`
        rows, dtype = quantize_rows(x) if rows is None else rows, product_dtype(x)
        h = grouped_gemm(permute_rows(rows, groups), quantized_weight(gate_up), groups, out_dtype=dtype)
        y = grouped_gemm(swiglu_quantize(h), quantized_weight(down), groups, out_dtype=dtype)
        shared_h, shared_y = dense.forward(rows, shared[0], shared[1], dtype) if shared else (None, None)
        ctx.save_for_backward(rows.data, rows.scale, p, h, gate_up, down, shared_h, *shared)
        ctx.groups, ctx.x_dtype, ctx.spread = groups, x.dtype, spread is not None
        if not places:
            return (gather_sum(y, p, groups.token_pos, shared_y),)
        due = (y,) if shared_y is None else (y, shared_y)
        ctx.mark_non_differentiable(*due)
        return *with_places(ctx, True, without_memory(x)), *due

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        data, scale, p, h, gate_up, down, shared_h, *shared = ctx.saved_tensors
        groups: Groups = ctx.groups
        rows, grad = RowQ(data, scale), received(*grads[:3])
        ds = grouped_gemm(
            permute_rows(grad, groups), quantized_weight(down), groups, transposed=True, out_dtype=h.dtype
        )
        back = swiglu_backward_quantize(ds, h, row_weights(p, groups))
        dx = grouped_gemm(back.dh, quantized_weight(gate_up), groups, transposed=True, out_dtype=h.dtype)
        d_down = _gradient(down, transpose_shift(grad, groups.row_token), back.s_t, groups)
        d_gate_up = _gradient(gate_up, back.dh_t, transpose_shift(rows, groups.row_token), groups)
        shared_dx, *d_shared = dense.backward(grad, rows, shared_h, *shared) if shared else (None,)
        dp = _of_choices(back.dp, groups).to(p.dtype)
        d_rest = dp, None, d_gate_up, d_down, *d_shared
        if ctx.spread:
            return shared_dx, None, None, *Spread.gradients(dx, groups.token_pos), *d_rest
        dx = gather_sum(dx, None, groups.token_pos, shared_dx).to(ctx.x_dtype)
        return dx, None, None, None, None, *d_rest


def _of_choices(rows: Tensor, groups: Groups) -> Tensor:
    """[R_max] -> [T, k]: of each choice's row, zero where it has none."""
    position = groups.token_pos.long()
    return torch.where(position >= 0, rows[position.clamp_min(0)], 0.0)


def _gradient(w: Tensor, g: TokQ, x: TokQ, groups: Groups) -> Tensor | None:
    def write(out: Tensor, accumulate: bool) -> None:
        grouped_wgrad(g, x, groups, out, accumulate)

    return deliver_gradient(w, write)
