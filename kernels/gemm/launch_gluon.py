"""Launch of the Hopper kernel: descriptors and tile choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from .. import registry
from .gemm_gluon import block_scaled_gemm
from .product import Product
from .tiles import LONGEST_LIST, Tile, cut, hopper_tile

SWIZZLED = {
    size: gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8 * size, rank=2)
    for size in (1, 2, 4)
}
"""Layout in shared memory of tiles whose elements have 1, 2 or 4 bytes."""
SCALES = gl.NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=1)


def launch(products: Sequence[Product]) -> None:
    """Compute ``products``, of one kind, recipe and device, in as few launches as possible."""
    for start in range(0, len(products), LONGEST_LIST):
        _launch(products[start : start + LONGEST_LIST])


def _launch(products: Sequence[Product]) -> None:
    one = products[0]
    programs = registry.multiprocessors(one.c.device)
    rows = [product.size[0] for product in products]
    tile = hopper_tile(one.kind, one.scales, rows, one.c.element_size())
    halves = False
    if len(products) == 1 and one.kind == "dense":
        tile, halves = cut(tile, one.scales, one.size, one.c.element_size(), programs)
    # Only those of "tokens" are counted.
    counts = one.c.new_zeros(1, dtype=torch.int32) if one.kind == "tokens" else one.c
    problems = [argument for product in products for argument in _arguments(product, tile)]
    block_scaled_gemm[(programs,)](
        *problems,
        *[None] * (LONGEST_LIST * len(problems) // len(products) - len(problems)),
        *one.tables,
        counts,
        one.n_experts,
        *one.strides[1:],
        PROBLEMS=len(products),
        SCALES=one.scales,
        KIND=one.kind,
        BM=tile.rows,
        BN=tile.columns,
        ADD=one.add,
        STAGES=tile.stages,
        GROUP=tile.group,
        PROGRAMS=programs,
        HALVES=halves,
        REGISTERS=tile.registers,
        num_warps=4,
    )


def _arguments(product: Product, tile: Tile) -> tuple[object, ...]:
    """A line of the kernel's arguments."""
    return (
        TensorDescriptor.from_tensor(product.a, [64, 128], SWIZZLED[1]),
        TensorDescriptor.from_tensor(product.b, [128, 128], SWIZZLED[1]),
        TensorDescriptor.from_tensor(product.c, [64, 128], SWIZZLED[product.c.element_size()]),
        TensorDescriptor.from_tensor(product.a_scale.view(-1), [tile.rows], SCALES),
        TensorDescriptor.from_tensor(product.b_scale.view(-1), [tile.columns], SCALES),
        (product.a_scale, product.b_scale, product.c),
    )
