"""The library's block-scaled FP8 products (cuBLASLt through ``torch.nn.functional.scaled_mm``).

Rows of 1x128 tiles by 128x128 blocks, or by rows; it has none of blocks by blocks (recipe shift).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..types import BLOCK, RowQ, WeightQ
from .product import Product, movable

_MULTIPLE = 16
"""Of which the rows of both operands of a weight gradient are: ``scaled_mm`` asks it of the second, and the
scales of so many rows have no padding.
"""


def supports(a: RowQ, w: WeightQ, transposed: bool, out: Tensor) -> bool:
    """Whether the library has a kernel for these sizes."""
    n, k = (w.data_t if transposed else w.data).shape
    return a.data.shape[0] % 4 == 0 and n % BLOCK == 0 and k % BLOCK == 0 and out.dtype == torch.bfloat16


def scaled_gemm(a: RowQ, w: WeightQ, transposed: bool, out: Tensor) -> None:
    """See ``op.gemm``."""
    operand = w.data_t if transposed else w.data
    scale = w.scale.t() if transposed else w.scale
    out.copy_(scaled_mm(a.data, a.scale, operand, padded(scale)))


def supports_wgrad(product: Product) -> bool:
    """Whether the library has a kernel for these sizes, of recipe v3."""
    n, k, _ = product.size
    return movable(product) and n % _MULTIPLE == 0 and k % _MULTIPLE == 0


def scaled_wgrad(product: Product) -> None:
    """See ``op.wgrad``; the library cannot add with such scales."""
    operands = product.a, product.a_scale, product.b, product.b_scale
    result = scaled_mm(*operands, blocks=False, dtype=torch.float32)
    if product.add:
        product.c.add_(result)
    else:
        product.c.copy_(result)


def padded(b_scale: Tensor) -> Tensor:
    """Scales [N / 128, K / 128] as the library wants them: contiguous along K, and a multiple of 4 there."""
    return F.pad(b_scale, (0, -b_scale.shape[1] % 4)).contiguous()


def scaled_mm(
    a: Tensor,
    a_scale: Tensor,
    b: Tensor,
    b_scale: Tensor,
    blocks: bool = True,
    dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """a [M, K] @ b [N, K].T; scales [K / 128, M], and ``padded`` ones of ``blocks`` or [K / 128, N]."""
    rows = F.ScalingType.BlockWise1x128
    product: Tensor = F.scaled_mm(
        a,
        b.t(),
        a_scale.t(),
        rows,
        b_scale.t(),
        F.ScalingType.BlockWise128x128 if blocks else rows,
        output_dtype=dtype,
    )
    return product
