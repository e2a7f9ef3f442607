"""RMSNorm over the last dimension, alone and behind a residual sum."""

from __future__ import annotations

from torch import Tensor

from .. import registry
from ..arguments import (
    check_count,
    check_float,
    check_number,
    check_rows,
    check_same_device,
    check_shape,
    check_tensor,
)
from ..quantize import quantize_rows
from ..states import States, settled
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
    _check(x, w, eps)
    if registry.backend("norm", x.device, x.dtype) != "reference":
        from .autograd import rms_norm as fast  # Triton is imported only where it runs

        return fast(x, w, eps)
    return reference.rms_norm(x, w, eps)


def add_rms_norm(x: Tensor, delta: Tensor | None, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """A residual sum and the norm behind it: ``x + delta`` and ``rms_norm(x + delta, w, eps)``.

    The sum is rounded to the dtype of ``x``, and the norm reads it so. Backward adds what flows into the sum
    from elsewhere to what flows through the norm in one pass, and rounds once.

    Parameters
    ----------
    x : Tensor [..., D]
    delta : Tensor [..., D] in the dtype of ``x``, or None
        None: nothing is added, and the sum is ``x`` itself.
    w : Tensor [D]
        Any floating dtype; used in the dtype of ``x``.
    eps : float

    Returns
    -------
    tuple of two Tensors [..., D] in the dtype of ``x``; differentiable in ``x``, ``delta`` and ``w``.

    Raises
    ------
    TypeError, ValueError
        An argument is no floating-point tensor, or they do not fit each other.
    """
    _check(x, w, eps)
    _check_delta(x, delta)
    if registry.backend("norm", x.device, x.dtype) != "reference":
        from .autograd import add_rms_norm as fast  # Triton is imported only where it runs

        return fast(x, delta, w, eps)
    return reference.add_rms_norm(x, delta, w, eps)


def add_rms_norm_quantize(
    x: Tensor,
    delta: Tensor | States | None,
    w: Tensor,
    eps: float,
    keep: bool = True,
    experts: tuple[int, int] | None = None,
) -> tuple[Tensor, States]:
    """``add_rms_norm`` for products in FP8: the norm comes quantised by the kernel that computes it.

    Parameters
    ----------
    x, w, eps
        As for ``add_rms_norm``.
    delta : Tensor or States [..., D] in the dtype of ``x``, or None
        States that take their gradient quantised get it so from the kernel that computes it. A sum of
        experts' rows that nobody has made yet is made here.
    keep : bool
        Whether something else reads the norm's values. If not they may be undefined, and are not written on
        a GPU.
    experts : pair of int, optional
        Rows R_max and choices k of the experts behind the norm. Their gradient may then come as it stands
        with them (``States.spread``), and is summed by the kernel that reads it.

    Returns
    -------
    tuple of the sum [..., D] and the norm as States, whose rows are ``quantize_rows`` of its values;
    differentiable as in ``add_rms_norm``, by way of the states' values.

    Raises
    ------
    TypeError, ValueError
        As ``add_rms_norm``.
    """
    _check(x, w, eps)
    added = States(delta) if isinstance(delta, Tensor) else delta
    _check_delta(x, None if added is None else added.values)
    if experts is not None:
        _check_experts(experts)
    if registry.backend("norm", x.device, x.dtype) != "reference":
        from .autograd import add_rms_norm_quantize as fast  # Triton is imported only where it runs

        return fast(x, added, w, eps, keep, experts)
    total, y = reference.add_rms_norm(x, None if added is None else settled(added), w, eps)
    return total, States(y, quantize_rows(y.detach().reshape(-1, y.shape[-1])))


def _check_delta(x: Tensor, delta: Tensor | None) -> None:
    if delta is not None:
        check_tensor("delta", delta, dtype=x.dtype)
        check_shape("delta", delta, x.shape)
        check_same_device(x=x, delta=delta)


def _check_experts(experts: object) -> None:
    if not isinstance(experts, tuple) or len(experts) != 2:
        raise TypeError(f"experts: expected a pair of numbers, got {experts!r}")
    for count in experts:
        check_count("experts", count)


def _check(x: Tensor, w: Tensor, eps: float) -> None:
    check_rows("x", x)
    check_float("w", w)
    check_tensor("w", w, ndim=1)
    check_shape("w", w, x.shape[-1:])
    check_same_device(x=x, w=w)
    check_number("eps", eps)
    if not eps >= 0:
        raise ValueError(f"eps: must not be negative, got {eps}")
