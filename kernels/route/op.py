"""Choosing experts as DeepSeek-V3 does, and the tables that put tokens in the order of their experts.

Everything stays on the device: no size depends on what was chosen, so the host never waits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import library, registry
from ..arguments import (
    check_count,
    check_float,
    check_number,
    check_same,
    check_same_device,
    check_shape,
    check_tensor,
)
from ..gemm.weights import deliver_gradient
from ..types import BLOCK, Groups
from . import reference


class Choice(NamedTuple):
    """Whom each token goes to. Of equal scores the lower number goes first."""

    idx: Tensor
    """int32 [T, k]: expert numbers, best first."""
    p: Tensor
    """float32 [T, k]: their weights; differentiable in the logits."""
    scores: Tensor
    """float32 [T, E]: the sigmoids of the logits; differentiable."""
    highest: Tensor
    """int32 [T, k]: the experts of the highest scores, whatever bias and groups say."""


def route(
    logits: Tensor,
    bias: Tensor,
    n_group: int,
    topk_group: int,
    k: int,
    scale: float,
    norm_topk_prob: bool = True,
) -> Choice:
    """Choose ``k`` experts a token: sigmoid scores, groups limited, bias used for the choice alone.

    A group's worth is the sum of its two best biased scores; the best ``topk_group`` groups stay. The weights
    are the *unbiased* scores of the chosen, divided by their sum (plus 1e-20) if ``norm_topk_prob``, times
    ``scale``.

    Parameters
    ----------
    logits : float32 Tensor [T, E]
    bias : float32 Tensor [E]
        Correction that balances the load; takes no gradient.
    n_group, topk_group, k : int
        With ``n_group == 1`` no group is excluded.
    scale : float
    norm_topk_prob : bool

    Returns
    -------
    Choice

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or shape, or the numbers of groups and experts do not fit.
    """
    check_tensor("logits", logits, ndim=2, dtype=(torch.float32, torch.float64))
    experts = logits.shape[1]
    check_tensor("bias", bias, ndim=1, dtype=(torch.float32, torch.float64))
    check_shape("bias", bias, (experts,))
    check_same_device(logits=logits, bias=bias)
    _check_choice(experts, n_group, topk_group, k)
    check_number("scale", scale)
    arguments = (logits, bias, n_group, topk_group, k, scale, norm_topk_prob)
    if registry.backend("route", logits.device, logits.dtype) == "triton":
        from . import route_triton  # Triton is imported only where it runs

        if route_triton.supports(logits, n_group):
            return Choice(*route_triton.route(*arguments))
    return Choice(*reference.route(*arguments))


def route_tables(idx: Tensor, n_experts: int, valid: Tensor | None = None, block: int = BLOCK) -> Groups:
    """The permutation that gathers each expert's tokens: a stable counting sort, groups rounded up to
    ``block``.

    Parameters
    ----------
    idx : int32 Tensor [T, k]
        Experts of each token, as ``route`` gives them.
    n_experts : int
    valid : bool Tensor [T], optional
        False takes a token (padding, say) out: it gets no row and is not counted.
    block : int
        128 for FP8; a smaller one saves rows where nothing needs 128.

    Returns
    -------
    Groups
        R_max = ``k * T + (block - 1) * n_experts`` rounded up to ``block``, whatever was chosen. Within an
        expert the rows follow the order of the tokens, so equal input gives equal tables.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or shape, or ``block`` or ``n_experts`` is not positive.
    """
    check_tensor("idx", idx, ndim=2, dtype=(torch.int32, torch.int64))
    if valid is not None:
        check_tensor("valid", valid, ndim=1, dtype=torch.bool)
        check_shape("valid", valid, idx.shape[:1])
        check_same_device(idx=idx, valid=valid)
    check_count("n_experts", n_experts)
    check_count("block", block)
    tokens, k = idx.shape
    n_rows = most_rows(tokens, k, n_experts, block)
    return Groups(*_route_tables(idx, n_experts, valid, block, n_rows), block=block)


def most_rows(tokens: int, k: int, n_experts: int, block: int = BLOCK) -> int:
    """R_max of ``route_tables``."""
    return -(-(k * tokens + (block - 1) * n_experts) // block) * block


Tables = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _fake_tables(idx: Tensor, n_experts: int, valid: Tensor | None, block: int, n_rows: int) -> Tables:
    def empty(*shape: int) -> Tensor:
        return idx.new_empty(shape, dtype=torch.int32)

    return empty(n_experts + 1), empty(n_rows // block), empty(n_rows), empty(*idx.shape), empty(n_experts)


@library.op(fake=_fake_tables)
def _route_tables(idx: Tensor, n_experts: int, valid: Tensor | None, block: int, n_rows: int) -> Tables:
    if registry.backend("route_tables", idx.device) == "triton":
        from .tables_triton import route_tables as fast  # Triton is imported only where it runs

        return fast(idx, n_experts, valid, block, n_rows).parts
    return reference.route_tables(idx, n_experts, valid, block, n_rows).parts


def router_logits(x: Tensor, w: Tensor) -> Tensor:
    """``x @ w.T`` in float32, whatever the dtype of ``x``: choices hang on small differences.

    Parameters
    ----------
    x : Tensor [T, D]
    w : float32 Tensor [E, D]
        (float64 is accepted.)

    Returns
    -------
    Tensor [T, E] in the dtype of ``w``; differentiable in both, once.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or shape.
    """
    check_float("x", x)
    check_tensor("x", x, ndim=2)
    check_tensor("w", w, ndim=2, dtype=(torch.float32, torch.float64))
    check_same("features", "x", x.shape[1], "w", w.shape[1])
    check_same_device(x=x, w=w)
    if registry.backend("router_logits", x.device, torch.promote_types(x.dtype, w.dtype)) == "triton":
        out: Tensor = _RouterLogits.apply(x, w)  # type: ignore[no-untyped-call]
        return out
    return reference.router_logits(x, w)


class _RouterLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        from . import logits_triton  # Triton is imported only where it runs

        x = x.contiguous()
        ctx.save_for_backward(x, w)
        return logits_triton.forward(x, w)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        from . import logits_triton

        x, w = ctx.saved_tensors
        grad = grads[0].contiguous()
        dx = logits_triton.backward_input(grad, w, x) if ctx.needs_input_grad[0] else None

        def write(out: Tensor, accumulate: bool) -> None:
            parts = logits_triton.backward_weight(grad, x, w)
            if accumulate:
                out.add_(parts.sum(0))
            else:
                torch.sum(parts, 0, out=out)

        return dx, deliver_gradient(w, write) if ctx.needs_input_grad[1] else None


def balance_loss(scores: Tensor, highest: Tensor, valid: Tensor | None = None) -> Tensor:
    """The sequence-wise balance loss of the DeepSeek-V3 report (equations 17 to 20) before its factor.

    Per sequence, the sum over experts of f_i P_i: f_i is the share of tokens that have expert i among
    their ``k`` highest scores, times E / k; P_i is the mean of its scores, normalised over the experts.
    As in the equations, f_i looks at the scores alone: neither the bias nor the group limit takes part.
    Even loads give 1. Gradients flow through P_i.

    Parameters
    ----------
    scores : float32 Tensor [B, S, E]
        Sigmoids.
    highest : integer Tensor [B, S, k]
        The experts of each token's highest scores.
    valid : bool Tensor [B, S], optional
        The tokens to look at; default all.

    Returns
    -------
    Tensor [B] in the dtype of ``scores``; 0 for a sequence without a valid token.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or shape.
    """
    check_tensor("scores", scores, ndim=3, dtype=(torch.float32, torch.float64))
    check_tensor("highest", highest, ndim=3, dtype=(torch.int32, torch.int64))
    check_shape("highest", highest, (*scores.shape[:2], highest.shape[2]))
    if not 1 <= highest.shape[2] <= scores.shape[2]:
        raise ValueError(f"highest: expected 1 to {scores.shape[2]} experts a token, got {highest.shape[2]}")
    check_same_device(scores=scores, highest=highest)
    if valid is not None:
        check_tensor("valid", valid, ndim=2, dtype=torch.bool)
        check_shape("valid", valid, scores.shape[:2])
        check_same_device(scores=scores, valid=valid)
    if registry.backend("balance_loss", scores.device, scores.dtype) == "triton":
        from .balance_triton import balance_loss as fast  # Triton is imported only where it runs

        return fast(scores, highest, valid)
    return reference.balance_loss(scores, highest, valid)


def _check_choice(experts: int, n_group: int, topk_group: int, k: int) -> None:
    for name, number in (("n_group", n_group), ("topk_group", topk_group), ("k", k)):
        check_count(name, number)
    if experts % n_group:
        raise ValueError(f"n_group: {experts} experts cannot be split into {n_group} groups")
    if n_group > 1 and experts // n_group < 2:
        raise ValueError(f"n_group: a group needs two experts, but {experts} / {n_group} is fewer")
    if not 1 <= topk_group <= n_group:
        raise ValueError(f"topk_group: must lie between 1 and n_group={n_group}, got {topk_group}")
    if not 1 <= k <= experts // n_group * topk_group:
        raise ValueError(f"k: must lie between 1 and {experts // n_group * topk_group}, got {k}")
