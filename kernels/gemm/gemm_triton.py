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
    """How a product is cut up, and who computes a tile."""

    rows: int
    warps: int
    stages: int
    group: int
    """Rows of tiles that are walked together."""
    wide: bool = False
    """Two halves side by side, whose partial products take turns in the same registers, so that two
    accumulators fit."""

    @property
    def columns(self) -> int:
        return BLOCK * (2 if self.wide else 1)

    @property
    def shared_memory_bytes(self) -> int:
        """Of the operands under way, with some room for what the compiler adds."""
        return self.stages * (self.rows + self.columns) * BLOCK + 1024


SMALL, LARGE, WIDE = Tile(64, 4, 3, 8), Tile(128, 8, 4, 16), Tile(128, 8, 4, 16, wide=True)
"""Of small tiles three share a multiprocessor, and one is multiplied while another begins or ends. A large
one reads a third fewer bytes a product, a wide one half as many; with scales of columns it would spill."""
_MANY, _VERY_MANY = 1536, 2048
"""Summands from which on wide tiles are faster than small ones, and large ones too."""
_FULL = 0.9
"""Share of the multiprocessors' turns that has work, below which a wide tile loses more than it saves."""


def tile_for(product: Product) -> Tile:
    """The tile for a product, on the GPU that it is on."""
    rows, columns, summands = product.size
    copies = product.n_experts if product.kind == "tokens" else 1
    tiles = copies * triton.cdiv(rows, WIDE.rows) * triton.cdiv(columns, WIDE.columns)
    width = registry.multiprocessors(product.c.device)
    full = tiles >= _FULL * triton.cdiv(tiles, width) * width
    room = registry.shared_memory_bytes(product.c.device)
    if (
        summands >= _MANY * copies
        and full
        and product.scales != "row_row"
        and room >= WIDE.shared_memory_bytes
    ):
        return WIDE
    return LARGE if summands >= _VERY_MANY * copies and room >= LARGE.shared_memory_bytes else SMALL


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
def _scaled(p, down, across, SCALES: tl.constexpr):
    """A partial product times its factors."""
    if SCALES == "block_block":
        return p * down
    elif SCALES == "row_block":
        return p * down[:, None]
    else:
        return (p * down[:, None]) * across[None, :]


@triton.jit
def _pinned(acc):
    """``acc``, complete here: its sums would else wait for the next product, and both partial sums spill."""
    return tl.inline_asm_elementwise("", "=r,0", [acc], dtype=tl.float32, is_pure=False, pack=1)


@triton.jit
def _store(c_ptr, acc, first_row, m, n, M, N, ADD: tl.constexpr):
    at = c_ptr + (first_row + m.to(tl.int64))[:, None] * N + n[None, :]
    inside = (m < M)[:, None] & (n < N)[None, :]
    if ADD:  # a tile has one owner, so this repeats; loading C would take registers of the other half
        tl.atomic_add(at, acc, mask=inside, sem="relaxed")
    else:
        tl.store(at, acc.to(c_ptr.dtype.element_ty), mask=inside)


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
    WIDE: tl.constexpr,
):
    """C [M, N] = A [M, K] @ B [N, K].T, a tile a program; SCALES, KIND and strides as in ``gemm_gluon``.

    A WIDE tile has a second half to the right of the first, and no scales of columns.
    """
    BN: tl.constexpr = 256 if WIDE else 128
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
    n = column + tl.arange(0, 128)
    sa_ptr += tl.minimum(row, M - 1) // 128 * sa_stride if SCALES == "block_block" else m
    sb_ptr += expert * sb_stride_expert
    right_ptr = sb_ptr + tl.minimum(column + 128, N - 1) // 128 * sb_stride_n
    sb_ptr += column // 128 * sb_stride_n  # n: 0 where a scale is a column's
    if SCALES == "row_row":
        sb_ptr += n
    if blocks == 0:
        first = 0  # an empty expert at the end has no scales, and any are as good
    down, across = _scales(sa_ptr, sb_ptr, sa_stride, sb_stride_k, first, m < M, n < N, SCALES)
    acc = tl.zeros((BM, 128), tl.float32)
    if WIDE:
        right_down, _ = _scales(sa_ptr, right_ptr, sa_stride, sb_stride_k, first, m < M, n < N, SCALES)
        right = tl.zeros((BM, 128), tl.float32)
    last = tl.maximum(first + blocks - 1, first)
    for k in range(first, first + blocks):
        a = a_desc.load([row, k * 128])
        b = b_desc.load([b_row, k * 128])
        # Those of the next block are on their way while this one is multiplied.
        ahead = tl.minimum(k + 1, last)
        next_down, next_across = _scales(sa_ptr, sb_ptr, sa_stride, sb_stride_k, ahead, m < M, n < N, SCALES)
        if WIDE:
            next_right, _ = _scales(sa_ptr, right_ptr, sa_stride, sb_stride_k, ahead, m < M, n < N, SCALES)
        acc += _scaled(tl.dot(a, b.T), down, across, SCALES)
        down = next_down
        across = next_across
        if WIDE:
            acc = _pinned(acc)
            b = b_desc.load([b_row + 128, k * 128])
            right += _scaled(tl.dot(a, b.T), right_down, across, SCALES)
            right_down = next_right
    first_row = tl.cast(expert, tl.int64) * M if KIND == "tokens" else 0
    _store(c_ptr, acc, first_row, m, n, M, N, ADD)
    if WIDE:
        _store(c_ptr, right, first_row, m, n + 128, M, N, ADD)


def launch(products: Sequence[Product]) -> None:
    """Compute ``products``, a launch each."""
    for product in products:
        _launch(product)


def _launch(product: Product) -> None:
    rows, columns, _ = product.size
    copies = product.n_experts if product.kind == "tokens" else 1
    tile = tile_for(product)
    tiles = copies * triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns)
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
        WIDE=tile.wide,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
