"""Token embeddings in plain torch: the definition of correct."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def gather(tokens: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """See ``op.embedding``."""
    return F.embedding(tokens, weight).to(dtype)


def add_gradient(tokens: Tensor, grad: Tensor, out: Tensor) -> None:
    """Add each row of ``grad`` [T, D] to that of its token in ``out`` [V, D]."""
    out.index_add_(0, tokens, grad.to(out.dtype))
