"""SwiGLU in plain torch: the definition of correct."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..quantize.reference import quantize_rows, transpose_shift
from ..types import RowQ, SwiGLUGradients


def swiglu(h: Tensor) -> Tensor:
    """See ``op.swiglu``; computed in float32 or wider and rounded once."""
    gate, up = h.to(torch.promote_types(h.dtype, torch.float32)).chunk(2, -1)
    return (F.silu(gate) * up).to(h.dtype)


def swiglu_quantize(h: Tensor) -> RowQ:
    """See ``quantized.swiglu_quantize``."""
    return quantize_rows(swiglu(h.float()))


def swiglu_backward_quantize(ds: Tensor, h: Tensor, p: Tensor | None) -> SwiGLUGradients:
    """See ``quantized.swiglu_backward_quantize``."""
    ds = ds.float()
    gate, up = h.float().chunk(2, -1)
    sigmoid = gate.sigmoid()
    silu = gate * sigmoid
    s, dp = silu * up, (ds * silu * up).sum(1)
    if p is not None:
        s, ds = s * p[:, None], ds * p[:, None]
    dgate = ds * up * (sigmoid + silu * (1 - sigmoid))
    dh = quantize_rows(torch.cat((dgate, ds * silu), 1))
    return SwiGLUGradients(dh, transpose_shift(dh), transpose_shift(quantize_rows(s)), dp)
