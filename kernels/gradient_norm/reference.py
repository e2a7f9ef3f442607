"""The norm of all gradients in plain torch: the definition of correct."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    """Of at least one tensor; summed in float64, and infinite where float32 cannot hold the sum."""
    norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in grads]
    return torch.stack(norms).square().sum().float().sqrt()
