"""One block-scaled product as a kernel sees it: operands, scales and their strides, what is grouped."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from torch import Tensor

from ..types import Groups, RowQ, TokQ, WeightQ

TMA_ALIGNMENT_BYTES = 16


@dataclass(frozen=True)
class Product:
    """``c = a @ b.T``; the words of ``kind`` and ``scales`` are explained in ``gemm_gluon``."""

    kind: str
    scales: str
    a: Tensor
    """e4m3 [M, K]."""
    b: Tensor
    """e4m3 [N, K], of "rows" [E * N, K]."""
    c: Tensor
    """[M, N], of "tokens" [E * M, N]."""
    a_scale: Tensor
    b_scale: Tensor
    strides: tuple[int, int, int, int]
    """Elements between scales: of A for the next block (of K, or of M if both operands are scaled by blocks);
    of B for the next expert, for the next block of N, and for the next block of K."""
    size: tuple[int, int, int]
    """M, N, K."""
    groups: Groups | None
    add: bool
    """Add to ``c`` instead of writing it."""

    @property
    def n_experts(self) -> int:
        return 1 if self.groups is None else self.groups.n_experts

    @property
    def tables(self) -> tuple[Tensor, Tensor]:
        """Offsets and block experts; without groups they are not read, but a pointer must point somewhere."""
        return (self.a_scale,) * 2 if self.groups is None else (self.groups.offsets, self.groups.block_expert)


def forward(a: RowQ, w: WeightQ, transposed: bool, out: Tensor, groups: Groups | None = None) -> Product:
    """The product of fprop, or of dgrad if ``transposed``."""
    operand = w.data_t if transposed else w.data
    stride_n, stride_k = reversed(w.scale.stride()[-2:]) if transposed else w.scale.stride()[-2:]
    stride_expert = 0 if groups is None else w.scale.stride(0)
    return Product(
        kind="dense" if groups is None else "rows",
        scales="row_block",
        a=a.data,
        b=operand.flatten(0, -2),
        c=out,
        a_scale=a.scale,
        b_scale=w.scale,
        strides=(a.scale.stride(0), stride_expert, stride_n, stride_k),
        size=(out.shape[0], out.shape[1], a.data.shape[1]),
        groups=groups,
        add=False,
    )


def backward(
    g: RowQ | TokQ, x: RowQ | TokQ, out: Tensor, accumulate: bool, groups: Groups | None = None
) -> Product:
    """The product of wgrad: the summed dimension is the tokens."""
    blocks = isinstance(g, TokQ)
    stride_n, stride_k = (x.scale.stride(0), 1) if blocks else (0, x.scale.stride(0))
    return Product(
        kind="dense" if groups is None else "tokens",
        scales="block_block" if blocks else "row_row",
        a=g.data,
        b=x.data,
        c=out.flatten(0, -2),
        a_scale=g.scale,
        b_scale=x.scale,
        strides=(g.scale.stride(0), 0, stride_n, stride_k),
        size=(g.data.shape[0], x.data.shape[0], g.data.shape[1]),
        groups=groups,
        add=accumulate,
    )


def movable(product: Product) -> bool:
    """Whether TMA can move operands and scales: there are some, and every row starts at 16 bytes."""
    matrices = (product.a, product.b, product.c)
    placed = (*matrices, product.a_scale, product.b_scale)
    return all(t.data_ptr() % TMA_ALIGNMENT_BYTES == 0 for t in placed) and all(
        t.numel() > 0 and t.shape[-1] * t.element_size() % TMA_ALIGNMENT_BYTES == 0 for t in matrices
    )


def launch(backend: str, *products: Product) -> bool:
    """Have ``backend`` compute ``products``; False, and nothing done, if it has no kernel for one of them.

    More than one are of one kind, recipe and device, all added or all written, each to memory of its own.
    """
    if backend not in ("gluon", "triton") or not all(map(movable, products)):
        return False
    _kernels(backend).launch(products)
    return True


def _kernels(backend: str) -> ModuleType:
    """Triton is imported only where it runs."""
    if backend == "gluon":
        from . import launch_gluon

        return launch_gluon
    from . import gemm_triton

    return gemm_triton
