"""The library's block-scaled FP8 product (cuBLASLt through ``torch.nn.functional.scaled_mm``)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..types import BLOCK, RowQ, WeightQ


def supports(a: RowQ, w: WeightQ, transposed: bool, out: Tensor) -> bool:
    """Whether the library has a kernel for these sizes."""
    n, k = (w.data_t if transposed else w.data).shape
    return a.data.shape[0] % 4 == 0 and n % BLOCK == 0 and k % BLOCK == 0 and out.dtype == torch.bfloat16


def scaled_gemm(a: RowQ, w: WeightQ, transposed: bool, out: Tensor) -> None:
    """See ``op.gemm``."""
    operand = w.data_t if transposed else w.data
    scale = w.scale.t() if transposed else w.scale
    out.copy_(scaled_mm(a.data, a.scale, operand, padded(scale)))


def padded(b_scale: Tensor) -> Tensor:
    """Scales [N / 128, K / 128] as the library wants them: contiguous along K, and a multiple of 4 there."""
    return F.pad(b_scale, (0, -b_scale.shape[1] % 4)).contiguous()


def scaled_mm(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor) -> Tensor:
    """a [M, K] @ b [N, K].T in bfloat16; scales [K / 128, M], and ``padded``."""
    product: Tensor = F.scaled_mm(
        a,
        b.t(),
        a_scale.t(),
        F.ScalingType.BlockWise1x128,
        b_scale.t(),
        F.ScalingType.BlockWise128x128,
        output_dtype=torch.bfloat16,
    )
    return product
