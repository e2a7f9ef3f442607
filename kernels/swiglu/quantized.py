"""SwiGLU between two FP8 products: what it reads comes from one, what it writes goes into others."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from .. import library, registry
from ..arguments import check_float, check_same_device, check_shape, check_tensor
from ..types import BLOCK, RowQ, SwiGLUGradients, TokQ, aligned, empty_rows, empty_tokens
from . import reference


def swiglu_quantize(h: Tensor) -> RowQ:
    """``silu(gate) * up`` of ``h = [gate | up]``, quantised along its rows without being rounded before.

    Parameters
    ----------
    h : Tensor [M, 2 * I]

    Returns
    -------
    RowQ [M, I]

    Raises
    ------
    TypeError, ValueError
        ``h`` is no floating-point matrix, or its second dimension is odd.
    """
    _check(h)
    return RowQ(*_swiglu_quantize(h))


def swiglu_backward_quantize(ds: Tensor, h: Tensor, p: Tensor | None = None) -> SwiGLUGradients:
    """Backward of ``p * swiglu(h)``: all that the next products need, from one read of ``ds`` and ``h``.

    Parameters
    ----------
    ds : Tensor [M, I]
        Gradient of ``p * swiglu(h)`` divided by ``p``: what the down projection sends back before the weight
        of the row multiplies it.
    h : Tensor [M, 2 * I]
        As it was in the forward pass.
    p : float32 Tensor [M], optional
        Weight of each row; 1 if not given.

    Returns
    -------
    SwiGLUGradients

    Raises
    ------
    TypeError, ValueError
        The arguments are malformed or do not fit each other.
    """
    _check(h)
    check_tensor("ds", ds, ndim=2, dtype=h.dtype)
    check_shape("ds", ds, (h.shape[0], h.shape[1] // 2))
    check_same_device(ds=ds, h=h)
    if p is not None:
        check_tensor("p", p, ndim=1, dtype=torch.float32)
        check_shape("p", p, h.shape[:1])
        check_same_device(p=p, h=h)
    dh, dh_scale, dh_t, dh_t_scale, s_t, s_t_scale, dp = _swiglu_backward_quantize(ds, h, p)
    return SwiGLUGradients(RowQ(dh, dh_scale), TokQ(dh_t, dh_t_scale), TokQ(s_t, s_t_scale), dp)


@library.op(fake=lambda h: empty_rows(h.shape[0], h.shape[1] // 2, h.device))
def _swiglu_quantize(h: Tensor) -> tuple[Tensor, Tensor]:
    q: RowQ = _implementation(h, forward=True).swiglu_quantize(h)
    return q.data, q.scale


Seven = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _fake_gradients(ds: Tensor, h: Tensor, p: Tensor | None) -> Seven:
    rows, columns = h.shape
    return (
        *empty_rows(rows, columns, h.device),
        *empty_tokens(rows, columns, h.device),
        *empty_tokens(rows, columns // 2, h.device),
        h.new_empty(rows, dtype=torch.float32),
    )


@library.op(fake=_fake_gradients)
def _swiglu_backward_quantize(ds: Tensor, h: Tensor, p: Tensor | None) -> Seven:
    q: SwiGLUGradients = _implementation(h).swiglu_backward_quantize(aligned(ds), aligned(h), p)
    return *q.dh.parts, *q.dh_t.parts, *q.s_t.parts, q.dp


def _check(h: Tensor) -> None:
    check_float("h", h)
    check_tensor("h", h, ndim=2)
    if h.shape[1] % 2:
        raise ValueError(f"h: the last dimension holds gate and up, so it must be even, got {h.shape[1]}")


def _implementation(h: Tensor, forward: bool = False) -> ModuleType:
    # Blocks of 128 must not hold both gate and up.
    whole_blocks = h.shape[1] % (2 * BLOCK) == 0
    backend = registry.backend("swiglu_quantize", h.device, h.dtype) if whole_blocks else "reference"
    # Triton is imported only where it runs.
    if backend == "gluon" and h.element_size() == 2 and not forward:
        from . import quantized_gluon

        return quantized_gluon
    if backend in ("gluon", "triton"):
        from . import quantized_triton

        return quantized_triton
    return reference
