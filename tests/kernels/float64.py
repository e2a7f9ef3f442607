"""Ops on a GPU against the same in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from penstock.kernels.numeric import relative_error

BF16 = 6e-3  # a few roundings to bfloat16; a wrong formula or a lost row is far beyond


def compare(function: Callable[..., Tensor], *inputs: Tensor, bound: float = BF16) -> None:
    """Result and gradients of ``function`` in the inputs' dtypes against the same in float64."""
    given = [t.detach().requires_grad_() for t in inputs]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    actual, expected = function(*given), function(*exact)
    upstream = torch.randn_like(expected).to(actual.dtype)
    actual.backward(upstream)
    expected.backward(upstream.double())
    assert relative_error(actual, expected) < bound
    for g, e in zip(given, exact, strict=True):
        assert relative_error(g.grad, e.grad) < bound


def randn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device="cuda").to(dtype)
