"""Token embeddings: rows of a float32 table in the dtype of activations."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .. import library, registry
from ..arguments import FLOATS, check_float, check_same_device, check_tensor
from ..gemm.weights import deliver_gradient
from . import reference


def embedding(tokens: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``weight[tokens]`` in ``dtype``.

    Parameters
    ----------
    tokens : int32 or int64 Tensor [...]
        On a GPU a token outside the vocabulary becomes NaN and has no gradient.
    weight : Tensor [V, D]
        The master weight, float32. Its gradient is summed in float32, in the order of the tokens, so that it
        repeats bit for bit; it goes straight into ``.grad`` where ``accumulate_in_place`` says so.
    dtype : torch.dtype
        Of the result.

    Returns
    -------
    Tensor [..., D]; differentiable in ``weight``, once.

    Raises
    ------
    TypeError, ValueError
        ``tokens`` are no integers, ``weight`` is no floating-point matrix, or they lie on different devices.
    """
    check_tensor("tokens", tokens, dtype=(torch.int32, torch.int64))
    check_float("weight", weight)
    check_tensor("weight", weight, ndim=2)
    check_same_device(tokens=tokens, weight=weight)
    if dtype not in FLOATS:
        raise TypeError(f"dtype: expected a floating-point dtype wider than FP8, got {dtype}")
    out: Tensor = _Embedding.apply(tokens, weight, dtype)  # type: ignore[no-untyped-call]
    return out


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        return _embedding(tokens, weight, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None, None]:
        tokens, weight = ctx.saved_tensors
        grad = grads[0].reshape(-1, weight.shape[1])

        def write(out: Tensor, accumulate: bool) -> None:
            if not accumulate:
                out.zero_()
            _embedding_gradient(tokens.flatten(), grad, out)

        return None, deliver_gradient(weight, write), None


@library.op(fake=lambda tokens, weight, dtype: weight.new_empty(*tokens.shape, weight.shape[1], dtype=dtype))
def _embedding(tokens: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    return _implementation(weight).gather(tokens, weight, dtype)  # type: ignore[no-any-return]


@library.op(fake=library.writes, mutates=("out",))
def _embedding_gradient(tokens: Tensor, grad: Tensor, out: Tensor) -> None:
    _implementation(out).add_gradient(tokens, grad, out)


def _implementation(weight: Tensor) -> ModuleType:
    if registry.backend("embedding", weight.device, weight.dtype) == "triton":
        from . import embedding_triton  # Triton is imported only where it runs

        return embedding_triton
    return reference
