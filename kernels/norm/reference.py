"""RMSNorm in plain torch: the definition of correct."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """See ``op.rms_norm``; float64 stays float64, so that gradients can be checked in it."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return w.to(x.dtype) * normal.to(x.dtype)


def add_rms_norm(x: Tensor, delta: Tensor | None, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See ``op.add_rms_norm``."""
    total = x if delta is None else x + delta
    return total, rms_norm(total, w, eps)
