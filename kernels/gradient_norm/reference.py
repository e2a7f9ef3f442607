"""The norm of all gradients in plain torch: the definition of correct."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    """Of at least one tensor; summed in float64, so that no square overflows or vanishes."""
    norms = [torch.linalg.vector_norm(g, dtype=torch.float64) for g in grads]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total.float()
