"""Causal attention in plain torch: the definition of correct."""

from __future__ import annotations

import torch
from torch import Tensor


def allowed(doc_ids: Tensor | None, length: int, device: torch.device) -> Tensor:
    """bool [B or 1, 1, S, S]: True where a query may look at a key. Every query may look at itself."""
    causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
    if doc_ids is None:
        return causal
    return causal & (doc_ids[:, None, :, None] == doc_ids[:, None, None, :])


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, doc_ids: Tensor | None) -> Tensor:
    """See ``op.attention``; softmax in float32 or wider."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k).to(wide) * scale
    mask = allowed(doc_ids, q.shape[1], q.device)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1).to(q.dtype)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v)
