"""Launch of the Hopper kernel: descriptors and tile choice."""

from __future__ import annotations

from functools import cache

import torch
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from .gemm_gluon import block_scaled_gemm
from .product import Product
from .tiles import hopper_tile

SWIZZLED = {
    size: gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8 * size, rank=2)
    for size in (1, 2, 4)
}
"""Layout in shared memory of tiles whose elements have 1, 2 or 4 bytes."""
SCALES = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=1)


def launch(product: Product) -> None:
    """Compute ``product``."""
    out_bytes = product.c.element_size()
    tile = hopper_tile(product.kind, product.scales, product.size[0], out_bytes)
    programs = _multiprocessors(product.c.device)
    block_scaled_gemm[(programs,)](
        TensorDescriptor.from_tensor(product.a, [64, 128], SWIZZLED[1]),
        TensorDescriptor.from_tensor(product.b, [128, 128], SWIZZLED[1]),
        TensorDescriptor.from_tensor(product.c, [64, 128], SWIZZLED[out_bytes]),
        TensorDescriptor.from_tensor(product.a_scale.view(-1), [tile.rows], SCALES),
        TensorDescriptor.from_tensor(product.b_scale.view(-1), [tile.columns], SCALES),
        product.a_scale,
        product.b_scale,
        *product.tables,
        *product.size,
        product.n_experts,
        *product.strides,
        SCALES=product.scales,
        KIND=product.kind,
        TALL=tile.tall,
        ADD=product.add,
        STAGES=tile.stages,
        GROUP=tile.group,
        PROGRAMS=programs,
        REGISTERS=tile.registers,
        num_warps=4,
    )


@cache
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
