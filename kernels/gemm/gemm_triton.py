"""Block-scaled FP8 products in plain Triton: the fallback where the Hopper kernel does not run."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from .. import registry
from ..types import BLOCK
from .product import Product


class Tile(NamedTuple):
    """Rows of a tile of 128 columns, and who computes it."""

    rows: int
    warps: int
    stages: int
    group: int
    """Rows of tiles that are walked together."""


LARGE, SMALL = Tile(128, 8, 4, 16), Tile(64, 4, 3, 8)
"""A large tile reads fewer bytes a product; of small ones three share a multiprocessor, and one is multiplied
while another begins or ends."""
_LONG = 4096
"""Summands from which on few tiles begin or end."""
_LARGE_BYTES = LARGE.stages * (LARGE.rows + BLOCK) * BLOCK + 1024
"""Of shared memory that a large tile takes: 129 KB, where consumer cards have 99."""


def tile_for(summands: int, shared_memory_bytes: int) -> Tile:
    """For products of rows of that many, on a GPU that has so much for a program."""
    return LARGE if summands >= _LONG and shared_memory_bytes >= _LARGE_BYTES else SMALL


@triton.jit
def _scales(
    sa_ptr, sb_ptr, sa_stride, sb_stride_k, k, row_inside, column_inside, SCALES: tl.constexpr
):  # fmt: skip
    """Factors of the k-th partial product: for its rows (or all of it), and for its columns."""
    if SCALES == "block_block":
        down = tl.load(sa_ptr + k) * tl.load(sb_ptr + k)
        across = down
    elif SCALES == "row_block":
        down = tl.load(sa_ptr + k * sa_stride, mask=row_inside, other=0.0) * tl.load(sb_ptr + k * sb_stride_k)
        across = down
    else:
        down = tl.load(sa_ptr + k * sa_stride, mask=row_inside, other=0.0)
        across = tl.load(sb_ptr + k * sb_stride_k, mask=column_inside, other=0.0)
    return down, across


@triton.jit
def block_scaled_gemm(
    a_desc,
    b_desc,
    c_ptr,
    sa_ptr,
    sb_ptr,
    offsets_ptr,
    expert_ptr,
    M,
    N,
    K,
    sa_stride,
    sb_stride_expert,
    sb_stride_n,
    sb_stride_k,
    SCALES: tl.constexpr,
    KIND: tl.constexpr,
    ADD: tl.constexpr,
    GROUP: tl.constexpr,
    BM: tl.constexpr,
):
    """C [M, N] = A [M, K] @ B [N, K].T, a tile a program; SCALES, KIND and strides as in ``gemm_gluon``."""
    BN: tl.constexpr = 128
    rows = tl.cdiv(M, BM)
    columns = tl.cdiv(N, BN)
    tile = tl.program_id(0)
    expert = 0
    first = 0
    blocks = tl.cdiv(K, 128)
    if KIND == "tokens":
        expert = tile // (rows * columns)
        tile = tile % (rows * columns)
        first = tl.load(offsets_ptr + expert) // 128
        blocks = tl.load(offsets_ptr + expert + 1) // 128 - first
    width = GROUP * columns
    top = tile // width * GROUP
    height = tl.minimum(rows - top, GROUP)
    row = (top + tile % width % height) * BM
    column = tile % width // height * BN
    b_row = column
    if KIND == "rows":
        expert = tl.load(expert_ptr + row // 128)
        if expert < 0:
            return
        b_row += expert * N
    m = row + tl.arange(0, BM)
    n = column + tl.arange(0, BN)
    block_row = tl.minimum(row, M - 1) // 128
    sa_ptr += block_row * sa_stride if SCALES == "block_block" else m
    sb_ptr += expert * sb_stride_expert + column // 128 * sb_stride_n  # n: 0 where a scale is a column's
    if SCALES == "row_row":
        sb_ptr += n
    if blocks == 0:
        first = 0  # an empty expert at the end has no scales, and any are as good
    down, across = _scales(sa_ptr, sb_ptr, sa_stride, sb_stride_k, first, m < M, n < N, SCALES)
    acc = tl.zeros((BM, BN), tl.float32)
    last = tl.maximum(first + blocks - 1, first)
    for k in range(first, first + blocks):
        a = a_desc.load([row, k * 128])
        b = b_desc.load([b_row, k * 128])
        # Those of the next block are on their way while this one is multiplied.
        next_k = tl.minimum(k + 1, last)
        next_down, next_across = _scales(sa_ptr, sb_ptr, sa_stride, sb_stride_k, next_k, m < M, n < N, SCALES)
        p = tl.dot(a, b.T)
        if SCALES == "block_block":
            acc += p * down
        elif SCALES == "row_block":
            acc += p * down[:, None]
        else:
            acc += (p * down[:, None]) * across[None, :]
        down = next_down
        across = next_across
    c_row = m.to(tl.int64)
    if KIND == "tokens":
        c_row += tl.cast(expert, tl.int64) * M
    at = c_ptr + c_row[:, None] * N + n[None, :]
    inside = (m < M)[:, None] & (n < N)[None, :]
    if ADD:  # a tile has one owner, so this is no race
        acc += tl.load(at, mask=inside, other=0.0)
    tl.store(at, acc.to(c_ptr.dtype.element_ty), mask=inside)


def launch(products: Sequence[Product]) -> None:
    """Compute ``products``, a launch each."""
    for product in products:
        _launch(product)


def _launch(product: Product) -> None:
    rows, columns, summands = product.size
    copies = product.n_experts if product.kind == "tokens" else 1
    tile = tile_for(summands // copies, registry.shared_memory_bytes(product.c.device))
    tiles = copies * triton.cdiv(rows, tile.rows) * triton.cdiv(columns, BLOCK)
    block_scaled_gemm[(tiles,)](
        TensorDescriptor.from_tensor(product.a, [tile.rows, BLOCK]),
        TensorDescriptor.from_tensor(product.b, [BLOCK, BLOCK]),
        product.c,
        product.a_scale,
        product.b_scale,
        *product.tables,
        *product.size,
        *product.strides,
        SCALES=product.scales,
        KIND=product.kind,
        ADD=product.add,
        GROUP=tile.group,
        BM=tile.rows,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
