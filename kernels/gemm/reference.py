"""Block-scaled matrix products in plain torch: float32 products of what the bytes stand for."""

from __future__ import annotations

from torch import Tensor

from ..quantize.reference import dequantize
from ..types import RowQ, TokQ, WeightQ


def gemm(a: RowQ, w: WeightQ, transposed: bool, out: Tensor) -> None:
    """See ``op.gemm``."""
    weight = dequantize(w)
    out.copy_(dequantize(a) @ (weight if transposed else weight.t()))


def wgrad(g: RowQ | TokQ, x: RowQ | TokQ, out: Tensor, accumulate: bool) -> None:
    """See ``op.wgrad``."""
    product = dequantize(g) @ dequantize(x).t()
    if accumulate:
        out.add_(product)
    else:
        out.copy_(product)
