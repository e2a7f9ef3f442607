"""SwiGLU in plain torch: the definition of correct."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def swiglu(h: Tensor) -> Tensor:
    """See ``op.swiglu``; computed in float32 or wider and rounded once."""
    gate, up = h.to(torch.promote_types(h.dtype, torch.float32)).chunk(2, -1)
    return (F.silu(gate) * up).to(h.dtype)
