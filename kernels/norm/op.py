"""RMSNorm over the last dimension."""

from __future__ import annotations

from torch import Tensor

from .. import registry
from ..arguments import check_float, check_shape, check_tensor
from . import reference


def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """``w * (x / sqrt(mean(x**2) + eps))``, statistics in float32.

    As in transformers, the normalised values are rounded to the dtype of ``x`` before the weight multiplies
    them.

    Parameters
    ----------
    x : Tensor [..., D]
    w : Tensor [D]
        Any floating dtype; used in the dtype of ``x``.
    eps : float

    Returns
    -------
    Tensor [..., D] in the dtype of ``x``; differentiable in ``x`` and ``w``.

    Raises
    ------
    TypeError, ValueError
        An argument is no floating-point tensor, or ``w`` does not fit ``x``.
    """
    check_float("x", x)
    check_tensor("w", w, ndim=1)
    check_shape("w", w, x.shape[-1:])
    if registry.backend("norm", x.device, x.dtype) == "triton":
        from .norm_triton import rms_norm as fast  # Triton is imported only where it runs

        return fast(x, w, eps)
    return reference.rms_norm(x, w, eps)
