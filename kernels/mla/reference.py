"""Rotary embedding in plain torch: the definition of correct."""

from __future__ import annotations

import torch
from torch import Tensor


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """See ``op.apply_rope``."""
    half = x.shape[-1] // 2
    cos, sin = cos[..., :half], sin[..., :half]
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def rotate_heads(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``op.rotate_heads``."""
    kept = q.shape[-1] - k.shape[-1]
    rotated = apply_rope(q[..., kept:], cos[:, :, None], sin[:, :, None], interleaved)
    return q[..., :kept], rotated, apply_rope(k, cos, sin, interleaved)
