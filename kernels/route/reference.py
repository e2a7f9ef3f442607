"""Routing in plain torch: the definition of correct. Of equal scores the lower number goes first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..types import Groups


def router_logits(x: Tensor, w: Tensor) -> Tensor:
    """See ``op.router_logits``."""
    return F.linear(x.to(w.dtype), w)


def route(
    logits: Tensor, bias: Tensor, n_group: int, topk_group: int, k: int, scale: float, norm_topk_prob: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See ``op.route``."""
    experts = logits.shape[1]
    scores = logits.sigmoid()
    biased = scores.detach() + bias.detach()
    if n_group > 1:
        grouped = biased.view(-1, n_group, experts // n_group)
        worth = grouped.topk(2, -1).values.sum(-1)
        kept = torch.zeros_like(worth, dtype=torch.bool).scatter_(1, _highest(worth, topk_group), True)
        biased = grouped.masked_fill(~kept[..., None], float("-inf")).view(-1, experts)
    chosen = _highest(biased, k)
    p = scores.gather(1, chosen)
    if norm_topk_prob:
        p = p / (p.sum(-1, keepdim=True) + 1e-20)
    return chosen.int(), p * scale, scores, _highest(scores.detach(), k).int()


def _highest(values: Tensor, k: int) -> Tensor:
    order: Tensor = torch.sort(values, dim=-1, descending=True, stable=True).indices
    return order[..., :k]


def route_tables(idx: Tensor, n_experts: int, valid: Tensor | None, block: int, n_rows: int) -> Groups:
    """See ``op.route_tables``."""
    tokens, k = idx.shape
    flat = idx.long() if valid is None else idx.long().masked_fill(~valid[:, None], n_experts)
    flat = flat.reshape(-1)

    # One more expert, number E, collects what is not routed; its rows all land in one spare slot at the end.
    counts = torch.zeros(n_experts + 1, dtype=torch.long, device=idx.device)
    counts.scatter_add_(0, flat, torch.ones_like(flat))
    offsets = torch.zeros(n_experts + 1, dtype=torch.long, device=idx.device)
    torch.cumsum((counts[:-1] + block - 1) // block * block, 0, out=offsets[1:])
    expert, order = torch.sort(flat, stable=True)
    rank = torch.arange(flat.numel(), device=idx.device) - (counts.cumsum(0) - counts)[expert]
    position = torch.where(expert < n_experts, offsets[expert] + rank, n_rows)

    row_token = torch.full((n_rows + 1,), -1, dtype=torch.long, device=idx.device)
    row_token[position] = order // k
    token_pos = torch.empty_like(flat)
    token_pos[order] = torch.where(position < n_rows, position, -1)
    starts = torch.arange(0, n_rows, block, device=idx.device)
    owner = torch.searchsorted(offsets[1:], starts, right=True)
    return Groups(
        offsets=offsets.int(),
        block_expert=torch.where(owner < n_experts, owner, -1).int(),
        row_token=row_token[:n_rows].int(),
        token_pos=token_pos.view(tokens, k).int(),
        counts=counts[:n_experts].int(),
        block=block,
    )


def balance_loss(scores: Tensor, highest: Tensor, valid: Tensor | None) -> Tensor:
    """See ``op.balance_loss``."""
    experts, k = scores.shape[-1], highest.shape[-1]
    real = torch.ones_like(highest[..., 0]) if valid is None else valid.to(highest.dtype)
    tokens = real.sum(1, keepdim=True).clamp(min=1)
    # Whole numbers, so that the order in which a device adds them is no matter.
    counts = torch.zeros(scores.shape[0], experts, dtype=highest.dtype, device=scores.device)
    counts.scatter_add_(1, highest.flatten(1).long(), real.repeat_interleave(k, 1))
    f = counts / tokens * (experts / k)
    mean_weight = (real / tokens)[..., None]
    p = (scores / (scores.sum(-1, keepdim=True) + 1e-20) * mean_weight).sum(1)
    return (f * p).sum(-1)
