"""SwiGLU of a matrix that holds gate and up side by side."""

from __future__ import annotations

from torch import Tensor

from .. import registry
from ..arguments import check_rows
from . import reference


def swiglu(h: Tensor) -> Tensor:
    """``silu(gate) * up`` of ``h = [gate | up]``.

    Parameters
    ----------
    h : Tensor [..., 2 * I]
        Gate first.

    Returns
    -------
    Tensor [..., I] in the dtype of ``h``; differentiable.

    Raises
    ------
    TypeError, ValueError
        ``h`` is no floating-point tensor, or its last dimension is odd.
    """
    check_rows("h", h)
    if h.shape[-1] % 2:
        raise ValueError(f"h: the last dimension holds gate and up, so it must be even, got {h.shape[-1]}")
    if registry.backend("swiglu", h.device, h.dtype) == "triton":
        from .swiglu_triton import swiglu as fast  # Triton is imported only where it runs

        return fast(h)
    return reference.swiglu(h)
