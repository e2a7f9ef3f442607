"""Rotary position embedding as multi-head latent attention uses it: on a slice of each head."""

from __future__ import annotations

from torch import Tensor

from .. import registry
from ..arguments import check_float, check_rows, check_same_device, check_shape, check_tensor
from ..states import States, states_of
from . import reference


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = True) -> Tensor:
    """Rotate pairs of the last dimension of ``x``.

    Parameters
    ----------
    x : Tensor [..., R]
        R even.
    cos, sin : Tensor [..., R / 2] or [..., R]
        One angle a pair, broadcast against ``x``; of R entries (transformers' ``cat(freqs, freqs)``) the
        first half is used.
    interleaved : bool
        True: pairs are (x0, x1), (x2, x3), ...; the result is de-interleaved, ``[evens | odds]``, as in
        transformers. False: pairs are (x_i, x_{i + R/2}).

    Returns
    -------
    Tensor [..., R] in the dtype of ``x``; differentiable in ``x``.

    Raises
    ------
    TypeError, ValueError
        ``x`` is no floating-point tensor, R is odd, or ``cos`` and ``sin`` fit neither R nor R / 2.
    """
    check_rows("x", x)
    size = x.shape[-1]
    if size % 2:
        raise ValueError(f"x: the last dimension is rotated in pairs, so it must be even, got {size}")
    half = size // 2
    for name, angle in (("cos", cos), ("sin", sin)):
        check_rows(name, angle)
        if angle.shape[-1] not in (half, size):
            raise ValueError(f"{name}: the last dimension must be {half} or {size}, got {angle.shape[-1]}")
        _check_broadcast(name, angle, x)
        check_same_device(**{"x": x, name: angle})
    return reference.apply_rope(x, cos, sin, interleaved)


def rotate_heads(
    q: Tensor | States, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate the last R features of every query head, and the key that all heads share, as ``apply_rope``.

    Parameters
    ----------
    q : Tensor or States [B, S, H, D + R]
    k : Tensor [B, S, R] in the dtype of ``q``
        Both may be slices of something wider.
    cos, sin : Tensor [B, S, R / 2] or [B, S, R]
        The first dimension may be 1; as for ``apply_rope``.
    interleaved : bool

    Returns
    -------
    q_nope : Tensor [B, S, H, D]
        A view of what was not rotated.
    q_rope : Tensor [B, S, H, R]
    k_rope : Tensor [B, S, R]
        Differentiable in ``q`` and ``k``; backward writes the gradient of ``q`` in one piece, quantised if
        ``q`` takes it so.

    Raises
    ------
    TypeError, ValueError
        An argument is no tensor of floating point, R is odd, or shapes do not fit each other.
    """
    given = states_of(q)
    q = given.values
    check_float("q", q)
    check_tensor("q", q, ndim=4)
    check_tensor("k", k, ndim=3, dtype=q.dtype)
    size = k.shape[2]
    check_shape("k", k, (*q.shape[:2], size))
    if size % 2 or size > q.shape[3]:
        raise ValueError(f"k: expected an even number of features, at most {q.shape[3]}, got {size}")
    for name, angle in (("cos", cos), ("sin", sin)):
        check_float(name, angle)
        check_tensor(name, angle, ndim=3)
        if angle.shape[2] not in (size, size // 2) or angle.shape[0] not in (1, q.shape[0]):
            raise ValueError(
                f"{name}: expected {size // 2} or {size} angles a token, got {tuple(angle.shape)}"
            )
        check_shape(name, angle, (angle.shape[0], q.shape[1], cos.shape[2]))
    check_same_device(q=q, k=k, cos=cos, sin=sin)
    if size & (size - 1) == 0 and registry.backend("rope", q.device, q.dtype) == "triton":
        from .rope_triton import rotate_heads as fast  # Triton is imported only where it runs

        return fast(given, k, cos, sin, interleaved)
    return reference.rotate_heads(q, k, cos, sin, interleaved)


def _check_broadcast(name: str, angle: Tensor, x: Tensor) -> None:
    """Of all dimensions but the last."""
    sizes = list(zip(reversed(angle.shape[:-1]), reversed(x.shape[:-1]), strict=False))
    if angle.ndim > x.ndim or any(given not in (1, wanted) for given, wanted in sizes):
        raise ValueError(
            f"{name}: expected a shape that broadcasts to {tuple(x.shape)}, got {tuple(angle.shape)}"
        )
