"""Rotary position embedding as multi-head latent attention uses it: on a slice of each head."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import check_float


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
    check_float("x", x)
    size = x.shape[-1]
    if size % 2:
        raise ValueError(f"x: the last dimension is rotated in pairs, so it must be even, got {size}")
    half = size // 2
    for name, angle in (("cos", cos), ("sin", sin)):
        if angle.shape[-1] not in (half, size):
            raise ValueError(f"{name}: the last dimension must be {half} or {size}, got {angle.shape[-1]}")
    cos, sin = cos[..., :half], sin[..., :half]
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)
