"""Block-scaled FP8 products of experts: forward, gradient by the input, gradient by the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import library, registry
from ..arguments import check_same, check_same_device, check_shape, check_tables, check_tensor
from ..gemm.op import OUTPUTS, check_operands
from ..gemm.product import backward, forward, launch
from ..quantize.op import check_row_q, check_weight_q
from ..types import BLOCK, Groups, RowQ, TokQ, WeightQ
from . import reference


def grouped_gemm(
    a: RowQ,
    w: WeightQ,
    groups: Groups,
    transposed: bool = False,
    out: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """Each expert's rows times its own weight: ``a @ w[e].T``, or ``a @ w[e]`` if ``transposed``.

    Parameters
    ----------
    a : RowQ [R_max, K]
        For dgrad [R_max, N].
    w : WeightQ [E, N, K]
    groups : Groups
        Of block 128; read on the device, so the host does not wait.
    transposed : bool
    out : contiguous bfloat16 or float32 Tensor [R_max, N], optional
    out_dtype : torch.dtype

    Returns
    -------
    Tensor [R_max, N], for dgrad [R_max, K]. Rows that belong to no expert are not defined.

    Raises
    ------
    TypeError, ValueError
        An operand is malformed, they do not fit each other, or the groups are not of block 128.
    """
    check_row_q("a", a)
    check_weight_q("w", w, ndim=3)
    n, k = (w.data if not transposed else w.data_t).shape[1:]
    check_same("inner dimension", "a", a.data.shape[1], "w", k)
    check_groups(groups, experts=w.data.shape[0], rows=a.data.shape[0])
    check_same_device(a=a.data, w=w.data, groups=groups.offsets)
    if out is None:
        if out_dtype not in OUTPUTS:
            raise TypeError(f"out_dtype: expected bfloat16 or float32, got {out_dtype}")
        return _grouped_gemm(a.parts, w.parts, groups.parts, transposed, out_dtype)
    check_tensor("out", out, ndim=2, dtype=OUTPUTS, contiguous=True)
    check_shape("out", out, (a.data.shape[0], n))
    check_same_device(a=a.data, out=out)
    _grouped_gemm_out(a.parts, w.parts, groups.parts, transposed, out)
    return out


def grouped_wgrad(
    g: RowQ | TokQ,
    x: RowQ | TokQ,
    groups: Groups,
    out: Tensor | None = None,
    accumulate: bool = False,
) -> Tensor:
    """``g[:, rows of e] @ x[:, rows of e].T`` for every expert, in float32.

    Parameters
    ----------
    g : RowQ or TokQ [N, R_max]
        The gradient, transposed; see ``gemm.wgrad`` for the two recipes.
    x : the same type [K, R_max]
    groups : Groups
        Of block 128.
    out : contiguous float32 Tensor [E, N, K], optional
    accumulate : bool
        Add to ``out``. Otherwise an expert without rows gets zeros.

    Returns
    -------
    float32 Tensor [E, N, K]

    Raises
    ------
    TypeError, ValueError
        An operand is malformed, they do not fit each other, or there is nothing to accumulate on.
    """
    check_operands(g, x)
    check_groups(groups, rows=g.data.shape[1])
    check_same_device(g=g.data, groups=groups.offsets)
    if out is None:
        if accumulate:
            raise ValueError("out: accumulate=True needs a tensor to add to")
        shape = (groups.n_experts, g.data.shape[0], x.data.shape[0])
        out = torch.empty(shape, dtype=torch.float32, device=g.data.device)
    check_tensor("out", out, ndim=3, dtype=torch.float32, contiguous=True)
    check_shape("out", out, (groups.n_experts, g.data.shape[0], x.data.shape[0]))
    check_same_device(g=g.data, out=out)
    _grouped_wgrad(g.parts, x.parts, groups.parts, out, isinstance(g, TokQ), accumulate)
    return out


Parts = Sequence[Tensor]


def _fake_product(a: Parts, w: Parts, groups: Parts, transposed: bool, dtype: torch.dtype) -> Tensor:
    return a[0].new_empty(a[0].shape[0], (w[1] if transposed else w[0]).shape[1], dtype=dtype)


@library.op(fake=_fake_product)
def _grouped_gemm(
    a: Sequence[Tensor], w: Sequence[Tensor], groups: Sequence[Tensor], transposed: bool, dtype: torch.dtype
) -> Tensor:
    out = _fake_product(a, w, groups, transposed, dtype)
    _multiply(RowQ(*a), WeightQ(*w), Groups.of(groups), transposed, out)
    return out


@library.op(fake=library.writes, mutates=("out",))
def _grouped_gemm_out(
    a: Sequence[Tensor], w: Sequence[Tensor], groups: Sequence[Tensor], transposed: bool, out: Tensor
) -> None:
    _multiply(RowQ(*a), WeightQ(*w), Groups.of(groups), transposed, out)


def _multiply(a: RowQ, w: WeightQ, groups: Groups, transposed: bool, out: Tensor) -> None:
    backend = registry.backend("grouped_gemm", out.device)
    if not launch(backend, forward(a, w, transposed, out, groups)):
        reference.grouped_gemm(a, w, groups, transposed, out)


@library.op(fake=library.writes, mutates=("out",))
def _grouped_wgrad(
    g: Sequence[Tensor],
    x: Sequence[Tensor],
    groups: Sequence[Tensor],
    out: Tensor,
    blocks: bool,
    accumulate: bool,
) -> None:
    form, tables = TokQ if blocks else RowQ, Groups.of(groups)
    gradient, rows = form(*g), form(*x)
    backend = registry.backend("grouped_wgrad", out.device)
    if backend == "gluon" and out.shape[1] % 64:
        backend = "triton"  # the other's tiles of 64 rows would reach into the next expert's gradient
    if not launch(backend, backward(gradient, rows, out, accumulate, tables)):
        reference.grouped_wgrad(gradient, rows, tables, out, accumulate)


def check_groups(
    groups: Groups, experts: int | None = None, rows: int | None = None, block: int | None = BLOCK
) -> None:
    """Raise unless ``groups`` divides ``rows`` rows among ``experts`` experts in blocks of ``block``."""
    check_tables(groups)
    if experts is not None:
        check_same("experts", "groups", groups.n_experts, "the weight", experts)
    if rows is not None:
        check_same("rows", "groups", groups.n_rows, "the operand", rows)
    if block is not None:
        check_same("groups.block", "groups", groups.block, "FP8", block)
