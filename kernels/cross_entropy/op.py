"""The output layer and its loss in one: the logits of all tokens never exist at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import library, registry
from ..arguments import (
    check_count,
    check_float,
    check_number,
    check_precision,
    check_same,
    check_same_device,
    check_shape,
    check_tensor,
)
from ..gemm.matmul import write_weight_gradient
from ..gemm.weights import cast_weight, deliver_gradient, is_written_in_place
from . import reference


@dataclass(frozen=True)
class Losses:
    """What several heads on one output layer lose."""

    total: Tensor
    """Scalar: the heads' losses times their weights, z-losses included; differentiable."""
    heads: tuple[Tensor, ...]
    """Scalars: the sum of each head's cross-entropies alone; not differentiable."""


def linear_cross_entropy(
    x: Tensor, w: Tensor, target: Tensor, chunk: int = 8192, precision: str = "bf16", z_loss: float = 0.0
) -> Tensor:
    """``joint_cross_entropy`` of one head: the sum over tokens of the losses of ``x @ w.T``."""
    return joint_cross_entropy([x], w, [target], None, chunk, precision, z_loss).total


def joint_cross_entropy(
    states: Sequence[Tensor],
    w: Tensor,
    targets: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    chunk: int = 8192,
    precision: str = "bf16",
    z_loss: float = 0.0,
) -> Losses:
    """Sums over tokens of the cross-entropies of several heads that share the output layer ``w``.

    Logits are made and used up ``chunk`` tokens at a time. The gradients are made on the way, in the forward
    pass, since the logits are there: backward only multiplies them by the gradient of the total. The heads
    add to one gradient of ``w``.

    Parameters
    ----------
    states : sequence of Tensor [T, D]
        Of each head; of one dtype.
    w : Tensor [V, D]
    targets : sequence of int64 Tensor [T]
        -100 leaves a token out. Any other number outside the vocabulary raises on a CPU and makes the loss
        NaN on a GPU, where nobody can look at it in time.
    weights : sequence of float, optional
        Of each head in the total; default 1.
    chunk : int
        Tokens whose logits exist at once.
    precision : {"fp32", "bf16", "fp8"}
        "fp32" multiplies in float32. The others multiply in bfloat16 on a GPU (an output layer is kept out of
        FP8) and in the dtype of the states on a CPU.
    z_loss : float
        Weight of each token's squared logarithm of the softmax's denominator (PaLM, section 5), which keeps
        logits from drifting away.

    Returns
    -------
    Losses, float32 (float64 if the states are); differentiable in states and ``w``, once: a second backward
    pass through them raises a RuntimeError.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape or range.
    """
    weights = [1.0] * len(states) if weights is None else list(weights)
    _check(states, w, targets, weights, chunk, precision, z_loss)
    compute = _compute_dtype(states[0], precision)
    numbers = (chunk, compute, tuple(weights), float(z_loss))
    # Inside a Function's forward gradients always read as switched off.
    arguments = (w, tuple(targets), numbers, torch.is_grad_enabled(), *states)
    total, heads = _JointCrossEntropy.apply(*arguments)  # type: ignore[no-untyped-call]
    return Losses(total, heads.unbind())


def _check(
    states: Sequence[Tensor],
    w: Tensor,
    targets: Sequence[Tensor],
    weights: Sequence[float],
    chunk: int,
    precision: str,
    z_loss: float,
) -> None:
    check_float("w", w)
    check_tensor("w", w, ndim=2)
    if len(states) == 0:
        raise ValueError("states: expected at least one head, got none")
    check_same("heads", "states", len(states), "targets", len(targets))
    check_same("heads", "states", len(states), "weights", len(weights))
    for i, (x, target) in enumerate(zip(states, targets, strict=True)):
        check_float(f"states[{i}]", x)
        check_tensor(f"states[{i}]", x, ndim=2, dtype=states[0].dtype)
        check_same("w", f"states[{i}]", x.shape[1], "w", w.shape[1])
        check_tensor(f"targets[{i}]", target, ndim=1, dtype=torch.int64)
        check_shape(f"targets[{i}]", target, x.shape[:1])
        check_same_device(w=w, **{f"states[{i}]": x, f"targets[{i}]": target})
    check_precision(precision)
    check_count("chunk", chunk)
    for i, weight in enumerate(weights):
        check_number(f"weights[{i}]", weight)
    check_number("z_loss", z_loss)
    if not z_loss >= 0:
        raise ValueError(f"z_loss: must not be negative, got {z_loss}")


def _compute_dtype(x: Tensor, precision: str) -> torch.dtype:
    if precision == "fp32":
        return torch.promote_types(x.dtype, torch.float32)
    return torch.bfloat16 if x.is_cuda else x.dtype


class _JointCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        w, targets, numbers, want_gradients, *states = arguments  # see `gemm.linear`
        chunk, compute, weights, z_loss = numbers
        need_w = want_gradients and ctx.needs_input_grad[0]
        need_x = [want_gradients and needed for needed in ctx.needs_input_grad[4:]]
        matrix = cast_weight(w, compute)
        wide = torch.promote_types(states[0].dtype, torch.float32)
        dw = torch.empty_like(w, dtype=torch.promote_types(w.dtype, torch.float32)) if need_w else None
        dx = [torch.empty_like(x) if needed else None for x, needed in zip(states, need_x, strict=True)]
        sums = torch.zeros(2, len(states), dtype=wide, device=w.device)
        started = False
        for head, (x, target) in enumerate(zip(states, targets, strict=True)):
            for start in range(0, x.shape[0], chunk):
                part = slice(start, start + chunk)
                rows = x[part].to(compute)
                logits = rows @ matrix.T
                want_gradient = need_w or need_x[head]
                loss, square = _row_sums(logits, target[part], want_gradient, weights[head], z_loss)
                sums[0, head] += loss
                sums[1, head] += square
                if (out := dx[head]) is not None:
                    out[part] = logits @ matrix
                if dw is not None:
                    write_weight_gradient(dw, logits, rows, accumulate=started)
                    started = True
                del logits  # before those of the next chunk are made
        if dw is not None and not started:
            dw.zero_()
        ctx.save_for_backward(w, dw, *dx)
        total = sum(weight * (sums[0, i] + z_loss * sums[1, i]) for i, weight in enumerate(weights))
        heads = sums[0].clone()
        ctx.mark_non_differentiable(heads)
        return total, heads

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        w, dw, *dx = ctx.saved_tensors
        grad = grads[0]

        def write(out: Tensor, accumulate: bool) -> None:
            if accumulate:
                out.addcmul_(dw, grad.to(dw.dtype))
            else:
                torch.mul(dw, grad.to(dw.dtype), out=out)

        # What was saved is scaled where it lies, which autograd notices if it is asked a second time.
        scaled = (None if d is None else d.mul_(grad.to(d.dtype)) for d in dx)
        if dw is None or is_written_in_place(w):
            weight_gradient = None if dw is None else deliver_gradient(w, write)
        else:
            weight_gradient = dw.mul_(grad.to(dw.dtype))
        return weight_gradient, None, None, None, *scaled


def _fake_sums(
    logits: Tensor, target: Tensor, want_gradient: bool, weight: float, z_loss: float
) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.new_empty((), dtype=wide), logits.new_empty((), dtype=wide)


@library.op(fake=_fake_sums, mutates=("logits",), name="cross_entropy_rows")
def _row_sums(
    logits: Tensor, target: Tensor, want_gradient: bool, weight: float, z_loss: float
) -> tuple[Tensor, Tensor]:
    """Sums of losses and squares; ``logits`` become their gradient if that is wanted."""
    if registry.backend("cross_entropy", logits.device, logits.dtype) == "triton":
        from .cross_entropy_triton import row_sums as fast  # Triton is imported only where it runs

        found = fast(logits, target, want_gradient, weight, z_loss)
    else:
        found = reference.row_sums(logits, target, want_gradient, weight, z_loss)
        if found.gradient is not None:
            logits.copy_(found.gradient)
    return found.loss, found.square
