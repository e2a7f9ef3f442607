"""The experts' linear layer a model calls: one stack of master weights, three precisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import library, registry
from ..arguments import check_float, check_precision, check_same, check_same_device, check_tensor
from ..gemm.linear import along_tokens, product_dtype, saved_input
from ..gemm.weights import cast_weight, deliver_gradient, quantized_weight
from ..quantize import quantize_both, quantize_rows, transpose_shift
from ..types import Groups, RowQ, TokQ
from . import reference
from .op import check_groups, grouped_gemm, grouped_wgrad


def grouped_linear(x: Tensor, w: Tensor, groups: Groups, precision: str = "bf16") -> Tensor:
    """Each expert's rows times its own weight: ``x[rows of e] @ w[e].T``.

    Parameters
    ----------
    x : Tensor [R_max, K]
        Permuted rows, zeros in the filling rows.
    w : Tensor [E, N, K]
        The master weights, float32; their gradient is float32 in every precision.
    groups : Groups
        Of block 128 for "fp8", of any block otherwise.
    precision : {"fp32", "bf16", "fp8"}
        As for ``gemm.linear``.

    Returns
    -------
    Tensor [R_max, N] in the dtype of ``x``; differentiable in ``x`` and ``w``, once. Rows that belong to no
    expert are zero on a CPU and undefined on a GPU; ``permute.combine`` never reads them.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or shape, or the groups do not suit the precision.
    """
    check_float("x", x)
    check_tensor("x", x, ndim=2)
    check_float("w", w)
    check_tensor("w", w, ndim=3)
    check_same("inner dimension", "x", x.shape[1], "w", w.shape[2])
    check_precision(precision)
    check_groups(groups, w.shape[0], x.shape[0], block=128 if precision == "fp8" else None)
    check_same_device(x=x, w=w, groups=groups.offsets)
    out: Tensor
    if precision == "fp8":
        out = _Fp8GroupedLinear.apply(x, w, groups, registry.wgrad_recipe())  # type: ignore[no-untyped-call]
    else:
        compute = torch.bfloat16 if precision == "bf16" else torch.promote_types(x.dtype, torch.float32)
        out = _PlainGroupedLinear.apply(x, w, groups, compute)  # type: ignore[no-untyped-call]
    return out.to(x.dtype)


class _PlainGroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, groups: Groups, compute: torch.dtype) -> Tensor:
        rows = x.to(compute)
        ctx.weight, ctx.groups, ctx.x_dtype = cast_weight(w, compute), groups, x.dtype
        ctx.save_for_backward(rows, w)
        return _grouped_mm(rows, ctx.weight.transpose(1, 2), groups.parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        rows, w = ctx.saved_tensors
        groups: Groups = ctx.groups
        grad = grads[0].to(rows.dtype).contiguous()
        dx = _grouped_mm(grad, ctx.weight, groups.parts).to(ctx.x_dtype) if ctx.needs_input_grad[0] else None
        dw = None
        if ctx.needs_input_grad[1]:
            dw = deliver_gradient(w, lambda out, add: _grouped_outer(out, grad, rows, groups.parts, add))
        return dx, dw, None, None


class _Fp8GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, groups: Groups, recipe: str) -> Tensor:
        rows = quantize_rows(x)
        ctx.weight, ctx.groups = quantized_weight(w), groups
        ctx.recipe, ctx.x_dtype = recipe, x.dtype
        ctx.save_for_backward(w, *saved_input(x, rows, recipe))
        return grouped_gemm(rows, ctx.weight, groups, out_dtype=product_dtype(x))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        w, *saved = ctx.saved_tensors
        groups: Groups = ctx.groups
        grad = grads[0].contiguous()
        rows, turned = quantize_both(grad) if ctx.recipe == "v3" else (quantize_rows(grad), None)
        dx = None
        if ctx.needs_input_grad[0]:
            product = grouped_gemm(rows, ctx.weight, groups, True, out_dtype=product_dtype(grad))
            dx = product.to(ctx.x_dtype)
        dw = None
        if ctx.needs_input_grad[1]:
            g: RowQ | TokQ = turned or transpose_shift(rows)
            x = along_tokens(saved, ctx.recipe)

            def write(out: Tensor, accumulate: bool) -> None:
                grouped_wgrad(g, x, groups, out, accumulate)

            dw = deliver_gradient(w, write)
        return dx, dw, None, None


@library.op(fake=lambda a, w, parts: a.new_empty(a.shape[0], w.shape[2]))
def _grouped_mm(a: Tensor, w: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """``a[rows of e] @ w[e]`` for w [E, K, N]."""
    groups = Groups.of(parts)
    if _has_library_kernel(a, a.shape[1], w.shape[2]):
        out: Tensor = torch._grouped_mm(a, w, offs=groups.offsets[1:])
        return out
    return reference.grouped_mm(a, w, groups)


@library.op(fake=library.writes, mutates=("out",))
def _grouped_outer(out: Tensor, grad: Tensor, x: Tensor, parts: Sequence[Tensor], accumulate: bool) -> None:
    groups = Groups.of(parts)
    if _has_library_kernel(grad, grad.shape[1], x.shape[1]):
        # The library writes bfloat16: each micro-batch is rounded once before it is added in float32.
        product = torch._grouped_mm(grad.t(), x, offs=groups.offsets[1:])
        product.masked_fill_(
            (groups.counts == 0)[:, None, None], 0.0
        )  # of an empty expert it may hold anything
        if accumulate:
            out.add_(product)
        else:
            out.copy_(product)
    else:
        reference.grouped_outer(grad, x, groups, out, accumulate)


def _has_library_kernel(a: Tensor, *row_sizes: int) -> bool:
    backend = registry.backend("grouped_mm", a.device)
    return backend == "torch" and a.dtype == torch.bfloat16 and all(size % 8 == 0 for size in row_sizes)
