"""Cross-entropy over logits in plain torch: the definition of correct."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100


def loss_and_gradient(logits: Tensor, target: Tensor, want_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Sum of the token losses, float32 or wider, and its gradient by the logits in their dtype."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    log_p = logits.to(wide).log_softmax(-1)
    loss = F.nll_loss(log_p, target, ignore_index=IGNORE, reduction="sum")
    if not want_gradient:
        return loss, None
    kept = target != IGNORE
    gradient = log_p.exp_()
    gradient[torch.arange(len(target), device=target.device), target.clamp_min(0)] -= 1.0
    return loss, gradient.mul_(kept[:, None]).to(logits.dtype)
