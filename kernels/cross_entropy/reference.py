"""Cross-entropy over logits in plain torch: the definition of correct."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100


@dataclass(frozen=True)
class RowSums:
    """Of a chunk's rows; float32 or wider."""

    loss: Tensor
    """Scalar: cross-entropies."""
    square: Tensor
    """Scalar: squared logarithms of the softmax's denominators."""
    gradient: Tensor | None
    """Of ``weight * (loss + z_loss * square)`` by the logits, in their dtype."""


def row_sums(logits: Tensor, target: Tensor, want_gradient: bool, weight: float, z_loss: float) -> RowSums:
    """Sums over the rows whose target is not ``IGNORE``."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_sum = wide.logsumexp(-1)
    kept = target != IGNORE
    log_p = wide - log_sum[:, None]
    loss = F.nll_loss(log_p, target, ignore_index=IGNORE, reduction="sum")
    square = (log_sum.square() * kept).sum()
    if not want_gradient:
        return RowSums(loss, square, None)
    gradient = log_p.exp_().mul_((1 + 2 * z_loss * log_sum)[:, None])
    gradient[torch.arange(len(target), device=target.device), target.clamp_min(0)] -= 1.0
    return RowSums(loss, square, gradient.mul_((weight * kept)[:, None]).to(logits.dtype))
