"""The output layer and its loss in one: the logits of all tokens never exist at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import registry
from ..arguments import check_float, check_precision, check_same, check_same_device, check_shape, check_tensor
from ..gemm.matmul import write_weight_gradient
from ..gemm.weights import cast_weight, deliver_gradient
from . import reference


def linear_cross_entropy(
    x: Tensor, w: Tensor, target: Tensor, chunk: int = 8192, precision: str = "bf16"
) -> Tensor:
    """Sum over tokens of the cross-entropy of ``x @ w.T`` against ``target``.

    Logits are made and used up ``chunk`` tokens at a time. The gradients are made on the way, in the forward
    pass, since the logits are there: backward only multiplies them by the gradient of the sum.

    Parameters
    ----------
    x : Tensor [T, D]
    w : Tensor [V, D]
    target : int64 Tensor [T]
        -100 leaves a token out. Any other number outside the vocabulary raises on a CPU and makes the loss
        NaN on a GPU, where nobody can look at it in time.
    chunk : int
        Tokens whose logits exist at once.
    precision : {"fp32", "bf16", "fp8"}
        "fp32" multiplies in float32. The others multiply in bfloat16 on a GPU (an output layer is kept out of
        FP8) and in the dtype of ``x`` on a CPU.

    Returns
    -------
    Tensor, scalar float32 (float64 if ``x`` is); differentiable in ``x`` and ``w``, once.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or shape.
    """
    check_float("x", x)
    check_tensor("x", x, ndim=2)
    check_float("w", w)
    check_tensor("w", w, ndim=2)
    check_same("w", "x", x.shape[1], "w", w.shape[1])
    check_tensor("target", target, ndim=1, dtype=torch.int64)
    check_shape("target", target, x.shape[:1])
    check_same_device(x=x, w=w, target=target)
    check_precision(precision)
    if chunk < 1:
        raise ValueError(f"chunk: must be positive, got {chunk}")
    want_gradients = torch.is_grad_enabled()  # inside a Function's forward it always reads False
    out: Tensor = _LinearCrossEntropy.apply(x, w, target, chunk, _compute_dtype(x, precision), want_gradients)  # type: ignore[no-untyped-call]
    return out


def _compute_dtype(x: Tensor, precision: str) -> torch.dtype:
    if precision == "fp32":
        return torch.promote_types(x.dtype, torch.float32)
    return torch.bfloat16 if x.is_cuda else x.dtype


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, target: Tensor, chunk: int, compute: torch.dtype, want_gradients: bool
    ) -> Tensor:
        need_x, need_w = (want_gradients and needed for needed in ctx.needs_input_grad[:2])
        wide = torch.promote_types(x.dtype, torch.float32)
        weight = cast_weight(w, compute)
        loss = torch.zeros((), dtype=wide, device=x.device)
        dx = torch.empty_like(x) if need_x else None
        dw = torch.zeros_like(w, dtype=torch.promote_types(w.dtype, torch.float32)) if need_w else None
        for start in range(0, x.shape[0], chunk):
            part = slice(start, start + chunk)
            rows = x[part].to(compute)
            part_loss, gradient = _loss_and_gradient(rows @ weight.T, target[part], need_x or need_w)
            loss += part_loss
            if dx is not None and gradient is not None:
                dx[part] = gradient @ weight
            if dw is not None and gradient is not None:
                write_weight_gradient(dw, gradient, rows, accumulate=True)
        ctx.save_for_backward(w, dx, dw)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        w, dx, dw = ctx.saved_tensors
        grad = grads[0]

        def write(out: Tensor, accumulate: bool) -> None:
            if accumulate:
                out.addcmul_(dw, grad.to(dw.dtype))
            else:
                torch.mul(dw, grad.to(dw.dtype), out=out)

        return (
            None if dx is None else dx * grad.to(dx.dtype),
            None if dw is None else deliver_gradient(w, write),
            None,
            None,
            None,
            None,
        )


def _loss_and_gradient(logits: Tensor, target: Tensor, want_gradient: bool) -> tuple[Tensor, Tensor | None]:
    if registry.backend("cross_entropy", logits.device, logits.dtype) == "triton":
        from .cross_entropy_triton import loss_and_gradient as fast  # Triton is imported only where it runs

        return fast(logits, target, want_gradient)
    return reference.loss_and_gradient(logits, target, want_gradient)
