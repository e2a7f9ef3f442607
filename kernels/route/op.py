"""Choosing experts as DeepSeek-V3 does, and the tables that put tokens in the order of their experts.

Everything stays on the device: no size depends on what was chosen, so the host never waits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import registry
from ..arguments import check_shape, check_tensor
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
    check_tensor("bias", bias, ndim=1)
    check_shape("bias", bias, (experts,))
    _check_choice(experts, n_group, topk_group, k)
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
    for name, value in (("n_experts", n_experts), ("block", block)):
        if value < 1:
            raise ValueError(f"{name}: must be positive, got {value}")
    tokens, k = idx.shape
    rows = -(-(k * tokens + (block - 1) * n_experts) // block) * block
    flat = idx.long() if valid is None else idx.long().masked_fill(~valid[:, None], n_experts)
    flat = flat.reshape(-1)

    # One more expert, number E, collects what is not routed; its rows all land in one spare slot at the end.
    counts = torch.zeros(n_experts + 1, dtype=torch.long, device=idx.device)
    counts.scatter_add_(0, flat, torch.ones_like(flat))
    offsets = torch.zeros(n_experts + 1, dtype=torch.long, device=idx.device)
    torch.cumsum((counts[:-1] + block - 1) // block * block, 0, out=offsets[1:])
    expert, order = torch.sort(flat, stable=True)
    rank = torch.arange(flat.numel(), device=idx.device) - (counts.cumsum(0) - counts)[expert]
    position = torch.where(expert < n_experts, offsets[expert] + rank, rows)

    row_token = torch.full((rows + 1,), -1, dtype=torch.long, device=idx.device)
    row_token[position] = order // k
    token_pos = torch.empty_like(flat)
    token_pos[order] = torch.where(position < rows, position, -1)
    starts = torch.arange(0, rows, block, device=idx.device)
    owner = torch.searchsorted(offsets[1:], starts, right=True)
    return Groups(
        offsets=offsets.int(),
        block_expert=torch.where(owner < n_experts, owner, -1).int(),
        row_token=row_token[:rows].int(),
        token_pos=token_pos.view(tokens, k).int(),
        counts=counts[:n_experts].int(),
        block=block,
    )


def _check_choice(experts: int, n_group: int, topk_group: int, k: int) -> None:
    if n_group < 1 or experts % n_group:
        raise ValueError(f"n_group: {experts} experts cannot be split into {n_group} groups")
    if n_group > 1 and experts // n_group < 2:
        raise ValueError(f"n_group: a group needs two experts, but {experts} / {n_group} is fewer")
    if not 1 <= topk_group <= n_group:
        raise ValueError(f"topk_group: must lie between 1 and n_group={n_group}, got {topk_group}")
    if not 1 <= k <= experts // n_group * topk_group:
        raise ValueError(f"k: must lie between 1 and {experts // n_group * topk_group}, got {k}")
