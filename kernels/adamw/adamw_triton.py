"""AdamW in Triton: each element is read once and written once, in every form that products read."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from dataclasses import astuple

import triton
import triton.language as tl
from torch import Tensor

from ..quantize.quantize_triton import finite, power_of_two_scale, reciprocal, transpose_weight
from ..types import WeightQ
from .hyperparameters import Hyperparameters

BLOCK = 1024
SLAB = 32
"""Rows of a 128x128 block that are updated at a time: a whole block's state does not fit in registers."""


@triton.jit
def _step_numbers(numbers_ptr):
    """As ``StepNumbers.on`` orders them."""
    return tl.load(numbers_ptr), tl.load(numbers_ptr + 1), tl.load(numbers_ptr + 2), tl.load(numbers_ptr + 3)


@triton.jit
def _updated(
    at,
    inside,
    p_ptr,
    g_ptr,
    m_ptr,
    v_ptr,
    lr,
    clip,
    correction1,
    correction2,
    beta1,
    beta2,
    eps,
    weight_decay,
):
    """The new parameter at ``at``; it and the moments are stored."""
    g = tl.load(g_ptr + at, mask=inside, other=0.0).to(tl.float32) * clip
    m = tl.load(m_ptr + at, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + at, mask=inside, other=0.0).to(tl.float32)
    p = tl.load(p_ptr + at, mask=inside, other=0.0)
    m = m + (g - m) * (1.0 - beta1)
    v = v * beta2 + g * g * (1.0 - beta2)
    denominator = tl.sqrt_rn(v / correction2) + eps
    p = p * (1.0 - lr * weight_decay) - (lr / correction1) * (m / denominator)
    tl.store(m_ptr + at, m.to(m_ptr.dtype.element_ty), mask=inside)
    tl.store(v_ptr + at, v.to(v_ptr.dtype.element_ty), mask=inside)
    tl.store(p_ptr + at, p, mask=inside)
    return p


@triton.jit
def _adamw(
    p_ptr,
    g_ptr,
    m_ptr,
    v_ptr,
    copy_ptr,
    numbers_ptr,
    count,
    beta1,
    beta2,
    eps,
    weight_decay,
    COPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < count
    lr, clip, correction1, correction2 = _step_numbers(numbers_ptr)
    # fmt: off
    p = _updated(i, inside, p_ptr, g_ptr, m_ptr, v_ptr,
                 lr, clip, correction1, correction2, beta1, beta2, eps, weight_decay)
    # fmt: on
    if COPY:
        tl.store(copy_ptr + i, p.to(copy_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _adamw_quantize(
    p_ptr,
    g_ptr,
    m_ptr,
    v_ptr,
    q_ptr,
    s_ptr,
    numbers_ptr,
    N,
    K,
    beta1,
    beta2,
    eps,
    weight_decay,
    SLAB: tl.constexpr,
):
    """A 128x128 block: updated slab by slab, then quantised by one scale, read from the cache it lies in."""
    rows = tl.cdiv(N, 128)
    columns = tl.cdiv(K, 128)
    expert = (tl.program_id(0) // (rows * columns)).to(tl.int64)
    tile = tl.program_id(0) % (rows * columns)
    top = tile // columns * 128
    k = tile % columns * 128 + tl.arange(0, 128)
    lr, clip, correction1, correction2 = _step_numbers(numbers_ptr)
    largest = tl.zeros((SLAB, 128), tl.float32)
    for slab in range(0, 128, SLAB):
        n = top + slab + tl.arange(0, SLAB)
        at = expert * N * K + n.to(tl.int64)[:, None] * K + k[None, :]
        inside = (n < N)[:, None] & (k < K)[None, :]
        # fmt: off
        p = _updated(at, inside, p_ptr, g_ptr, m_ptr, v_ptr,
                     lr, clip, correction1, correction2, beta1, beta2, eps, weight_decay)
        # fmt: on
        largest = tl.maximum(largest, tl.abs(finite(p)))
    scale = power_of_two_scale(tl.max(tl.max(largest, 1), 0))
    tl.store(s_ptr + tl.program_id(0), scale)
    tl.debug_barrier()  # other threads may read what these have stored
    for slab in range(0, 128, SLAB):
        n = top + slab + tl.arange(0, SLAB)
        at = expert * N * K + n.to(tl.int64)[:, None] * K + k[None, :]
        inside = (n < N)[:, None] & (k < K)[None, :]
        p = finite(tl.load(p_ptr + at, mask=inside, other=0.0))
        tl.store(q_ptr + at, (p * reciprocal(scale)).to(tl.float8e4nv), mask=inside)


def update(
    param: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    copy: WeightQ | Tensor | None,
    numbers: Tensor,
    hyper: Hyperparameters,
) -> None:
    """See ``reference.update``."""
    if param.numel() == 0:
        return
    state = (param, grad, m, v)
    constants = astuple(hyper)
    if isinstance(copy, WeightQ):
        rows, columns = param.shape[-2:]
        grid = (copy.scale.numel(),)
        _adamw_quantize[grid](
            *state, copy.data, copy.scale, numbers, rows, columns, *constants, SLAB=SLAB, num_warps=8
        )
        transpose_weight(copy)
        return
    _adamw[(triton.cdiv(param.numel(), BLOCK),)](
        *state,
        param if copy is None else copy,
        numbers,
        param.numel(),
        *constants,
        COPY=copy is not None,
        BLOCK=BLOCK,
        num_warps=4,
    )
