"""Moving rows to their experts and back. Both directions gather, without atomics: results repeat exactly."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .. import library, registry
from ..arguments import check_float, check_same_device, check_shape, check_tables, check_tensor
from ..quantize.op import check_row_q
from ..types import Groups, RowQ, empty_rows
from . import reference


def permute(x: Tensor, groups: Groups) -> Tensor:
    """Copy each token's row to all experts it chose.

    Parameters
    ----------
    x : Tensor [T, D]
    groups : Groups

    Returns
    -------
    Tensor [R_max, D] in the dtype of ``x``, zeros in the filling rows; differentiable.

    Raises
    ------
    TypeError, ValueError
        ``x`` is no floating-point matrix of ``groups``' T rows on ``groups``' device.
    """
    check_float("x", x)
    check_tensor("x", x, ndim=2)
    check_tables(groups)
    check_shape("x", x, (groups.token_pos.shape[0], x.shape[1]))
    check_same_device(x=x, groups=groups.offsets)
    out: Tensor = _Permute.apply(x, groups)  # type: ignore[no-untyped-call]
    return out


def permute_rows(a: RowQ, groups: Groups) -> RowQ:
    """Copy each token's quantised row, bytes and scales, to all experts it chose.

    Parameters
    ----------
    a : RowQ [T, D]
    groups : Groups

    Returns
    -------
    RowQ [R_max, D], zeros in the filling rows.

    Raises
    ------
    TypeError, ValueError
        ``a`` is no RowQ of ``groups``' T rows on ``groups``' device.
    """
    check_row_q("a", a)
    check_tables(groups)
    check_shape("a.data", a.data, (groups.token_pos.shape[0], a.data.shape[1]))
    check_same_device(a=a.data, groups=groups.offsets)
    return RowQ(*_gather_quantized(a.parts, groups.parts), power_of_two=a.power_of_two)


def combine(y: Tensor, p: Tensor, groups: Groups) -> Tensor:
    """Sum each token's expert outputs, weighted, in float32.

    Parameters
    ----------
    y : Tensor [R_max, D]
    p : float Tensor [T, k]
    groups : Groups

    Returns
    -------
    Tensor [T, D] in the dtype of ``y``; zero for tokens that are not routed; differentiable in ``y`` and
    ``p``.

    Raises
    ------
    TypeError, ValueError
        ``y`` or ``p`` does not fit ``groups``.
    """
    check_float("y", y)
    check_tensor("y", y, ndim=2)
    check_tables(groups)
    check_shape("y", y, (groups.n_rows, y.shape[1]))
    check_float("p", p)
    check_shape("p", p, groups.token_pos.shape)
    check_same_device(y=y, p=p, groups=groups.offsets)
    out: Tensor = _Combine.apply(y, p, groups)  # type: ignore[no-untyped-call]
    return out


def gather_sum(y: Tensor, weight: Tensor | None, token_pos: Tensor, extra: Tensor | None = None) -> Tensor:
    """[R_max, D] -> [T, D]: ``combine`` and ``extra``, for functions with a backward pass of their own."""
    return _gather_sum(y, weight, token_pos, extra)


@library.op(fake=lambda x, groups: x.new_empty(Groups.of(groups).n_rows, x.shape[1]))
def _gather_rows(x: Tensor, groups: Sequence[Tensor]) -> Tensor:
    return _implementation(x).gather_rows(x, Groups.of(groups))  # type: ignore[no-any-return]


@library.op(fake=lambda a, groups: empty_rows(Groups.of(groups).n_rows, a[0].shape[1], a[0].device))
def _gather_quantized(a: Sequence[Tensor], groups: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    q: RowQ = _implementation(a[1]).gather_quantized(RowQ(*a), Groups.of(groups))
    return q.data, q.scale


@library.op(fake=lambda y, weight, token_pos, extra: y.new_empty(token_pos.shape[0], y.shape[1]))
def _gather_sum(y: Tensor, weight: Tensor | None, token_pos: Tensor, extra: Tensor | None) -> Tensor:
    return _implementation(y).gather_sum(y, weight, token_pos, extra)  # type: ignore[no-any-return]


@library.op(fake=lambda grad, weight, groups: grad.new_empty(Groups.of(groups).n_rows, grad.shape[1]))
def _spread_rows(grad: Tensor, weight: Tensor, groups: Sequence[Tensor]) -> Tensor:
    return _implementation(grad).spread_rows(grad, weight, Groups.of(groups))  # type: ignore[no-any-return]


def _fake_dots(grad: Tensor, y: Tensor, groups: Sequence[Tensor]) -> Tensor:
    wide = torch.promote_types(y.dtype, torch.float32)
    return y.new_empty(Groups.of(groups).token_pos.shape, dtype=wide)


@library.op(fake=_fake_dots)
def _row_dots(grad: Tensor, y: Tensor, groups: Sequence[Tensor]) -> Tensor:
    return _implementation(grad).row_dots(grad, y, Groups.of(groups))  # type: ignore[no-any-return]


def _implementation(like: Tensor) -> ModuleType:
    if registry.backend("permute", like.device, like.dtype) == "triton":
        from . import permute_triton  # Triton is imported only where it runs

        return permute_triton
    return reference


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: Groups) -> Tensor:
        ctx.groups = groups
        return _gather_rows(x, groups.parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].contiguous()
        return gather_sum(grad, None, ctx.groups.token_pos), None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, p: Tensor, groups: Groups) -> Tensor:
        ctx.groups = groups
        ctx.save_for_backward(y, p)
        return gather_sum(y, p, groups.token_pos)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        y, p = ctx.saved_tensors
        grad = grads[0].contiguous()
        groups: Groups = ctx.groups
        dy = _spread_rows(grad, p, groups.parts) if ctx.needs_input_grad[0] else None
        dp = _row_dots(grad, y, groups.parts).to(p.dtype) if ctx.needs_input_grad[1] else None
        return dy, dp, None
