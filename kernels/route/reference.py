"""Choosing experts in plain torch: the definition of correct. Of equal scores the lower number goes first."""

from __future__ import annotations

import torch
from torch import Tensor


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
