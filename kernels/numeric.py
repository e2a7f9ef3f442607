"""How two results are compared: relative error, bias of rounding, equality of bits."""

from __future__ import annotations

import torch
from torch import Tensor


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Frobenius norm of the difference over the norm of ``expected``, in float64; NaN if either holds one."""
    actual, expected = actual.detach(), expected.detach()
    difference = torch.linalg.vector_norm(actual.double() - expected.double())
    size = torch.linalg.vector_norm(expected.double())
    return float(difference / size) if size > 0 else float(difference)


def rounding_bias(actual: Tensor, expected: Tensor) -> float:
    """The mean signed relative error in units of its own standard error.

    Unbiased rounding gives a number of order one however many elements there are; truncation grows with the
    square root of their count.
    """
    kept = expected != 0
    error = (actual.double()[kept] - expected.double()[kept]) / expected.double()[kept]
    spread = error.std()
    return float(error.mean() / spread * error.numel() ** 0.5) if spread > 0 else 0.0


def same_bits(a: Tensor, b: Tensor) -> bool:
    """True if both have one shape, one dtype and the same bytes: NaN equals NaN, -0 differs from +0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))
