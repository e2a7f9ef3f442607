"""AdamW of what FP8 products read, for Hopper in Gluon: a program updates one block of 128x128 and casts it.

The block waits in shared memory until its largest magnitude is known, so that nothing is read twice, and goes
out by rows and transposed.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"
# Device code: a kernel's arguments have no Python types, and a tuple that grows has many.

from __future__ import annotations

from dataclasses import astuple

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from ..quantize.both_gluon import TILE, WORDS
from ..quantize.numbers_gluon import finite, power_of_two_scale
from ..quantize.words_gluon import e4m3
from ..types import BLOCK, WeightQ
from .hyperparameters import Hyperparameters

WARPS, REGISTERS = 8, 128
"""Of a program, and of its threads: two programs share a multiprocessor."""
SLAB = 16
"""Rows of a block that are updated at a time, while the state of the next comes."""
# A warp has a row, four columns a thread.
ROWS = gl.constexpr(gl.BlockedLayout([1, 4], [1, 32], [WARPS, 1], [1, 0]))
FLAT = gl.constexpr(gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))
FLAT_SQUARES = gl.constexpr(gl.SwizzledSharedLayout(1, 1, 1, [3, 2, 1, 0]))
# 32 rows as [8, 4, 32, 4]: four rows of four columns in a thread, a warp has eight threads across, four down.
SQUARES = gl.constexpr(
    gl.DistributedLinearLayout(
        [[0, 0, 0, 1], [0, 0, 0, 2], [0, 1, 0, 0], [0, 2, 0, 0]],
        [[0, 0, 1, 0], [0, 0, 2, 0], [0, 0, 4, 0], [1, 0, 0, 0], [2, 0, 0, 0]],
        [[4, 0, 0, 0], [0, 0, 8, 0], [0, 0, 16, 0]],
        [],
        [8, 4, 32, 4],
    )
)


@gluon.jit
def _load(pointers, at):
    """Parameters, gradients and both moments, as they lie."""
    p_ptr, g_ptr, m_ptr, v_ptr = pointers
    return gl.load(p_ptr + at), gl.load(g_ptr + at), gl.load(m_ptr + at), gl.load(v_ptr + at)


@gluon.jit
def _updated(state, pointers, at, numbers, beta1, beta2, eps, weight_decay):
    """As ``adamw_triton._updated``: the new parameters, which are stored with the moments."""
    p, g, m, v = state
    p_ptr, _, m_ptr, v_ptr = pointers
    lr, clip, correction1, correction2 = numbers  # as ``StepNumbers.on`` orders them
    g = g.to(gl.float32) * clip
    m = m.to(gl.float32)
    m = m + (g - m) * (1.0 - beta1)
    v = v.to(gl.float32) * beta2 + g * g * (1.0 - beta2)
    denominator = gl.sqrt_rn(v / correction2) + eps
    p = p * (1.0 - lr * weight_decay) - (lr / correction1) * (m / denominator)
    gl.store(m_ptr + at, m.to(m_ptr.dtype.element_ty))
    gl.store(v_ptr + at, v.to(v_ptr.dtype.element_ty))
    gl.store(p_ptr + at, p)
    return p


@gluon.jit
def _bytes(x):
    """[..., 4] as words of four bytes."""
    pairs: gl.constexpr = (x.shape[0], x.shape[1], x.shape[2], 2, 2)
    evens, odds = gl.split(gl.reshape(x, pairs))
    first, third = gl.split(evens)
    second, fourth = gl.split(odds)
    return e4m3(first, second, third, fourth)


@gluon.jit
def adamw_quantize_kernel(
    p_ptr, g_ptr, m_ptr, v_ptr, q_desc, t_desc, s_ptr, numbers_ptr,
    N, K, beta1, beta2, eps, weight_decay, SLAB: gl.constexpr,
):  # fmt: skip
    """As ``adamw_triton._adamw_quantize`` and ``quantize_triton._transpose_weight`` behind it.

    N and K are multiples of 128. Elements of q and t are words of four bytes.
    """
    SLABS: gl.constexpr = 128 // SLAB
    rows, columns = N // 128, K // 128
    expert = gl.program_id(0) // (rows * columns)
    row = gl.program_id(0) % (rows * columns) // columns
    column = gl.program_id(0) % columns
    start = (expert.to(gl.int64) * N + row * 128) * K + column * 128
    pointers = p_ptr + start, g_ptr + start, m_ptr + start, v_ptr + start
    block_s = gl.allocate_shared_memory(gl.float32, [4, 32, 128], FLAT)
    tiles_s = gl.allocate_shared_memory(gl.int32, [2, 128, 32], q_desc.layout)
    n = gl.expand_dims(gl.arange(0, SLAB, gl.SliceLayout(1, ROWS)), 1)
    k = gl.expand_dims(gl.arange(0, 128, gl.SliceLayout(0, ROWS)), 0)
    at = n * K + k
    numbers = ()
    for i in gl.static_range(4):
        numbers += (gl.load(numbers_ptr + i),)
    state = _load(pointers, at)
    largest = gl.zeros([SLAB], gl.float32, gl.SliceLayout(1, ROWS))
    for slab in gl.static_range(SLABS):
        own = state
        if slab + 1 < SLABS:
            state = _load(pointers, at + (slab + 1) * SLAB * K)
        here = at + slab * SLAB * K
        p = _updated(own, pointers, here, numbers, beta1, beta2, eps, weight_decay)
        largest = gl.maximum(largest, gl.max(gl.abs(finite(p)), 1))
        block_s.index(slab * SLAB // 32).slice(slab * SLAB % 32, SLAB, 0).store(p)
    scale, inverse = power_of_two_scale(gl.max(largest, 0))
    gl.store(s_ptr + gl.program_id(0), scale)
    for part in gl.static_range(4):
        squares_s = block_s.index(part)._reinterpret(gl.float32, [8, 4, 32, 4], FLAT_SQUARES)
        x = finite(squares_s.load(SQUARES)) * inverse
        tiles_s.index(0).slice(part * 32, 32, 0).store(gl.reshape(_bytes(x), (32, 32)))
        words = gl.permute(_bytes(gl.permute(x, (0, 2, 3, 1))), (1, 2, 0))
        tiles_s.index(1).slice(part * 8, 8, 1).store(gl.reshape(words, (128, 8)))
    fence_async_shared()
    tma.async_copy_shared_to_global(q_desc, [expert * N + row * 128, column * 32], tiles_s.index(0))
    tma.async_copy_shared_to_global(t_desc, [expert * K + column * 128, row * 32], tiles_s.index(1))
    tma.store_wait(0)


def fits(param: Tensor, grad: Tensor, m: Tensor, v: Tensor, copy: WeightQ) -> bool:
    """Whether weights are whole blocks, their moments bfloat16, and all that is read or written aligned."""
    whole = all(size % BLOCK == 0 for size in param.shape[-2:])
    aligned = all(x.data_ptr() % 16 == 0 for x in (param, grad, m, v, copy.data, copy.data_t))
    return whole and aligned and m.dtype == v.dtype == torch.bfloat16


def update(
    param: Tensor, grad: Tensor, m: Tensor, v: Tensor, copy: WeightQ, numbers: Tensor, hyper: Hyperparameters
) -> None:
    """See ``reference.update``; of operands that fit."""
    if param.numel() == 0:
        return
    q_desc, t_desc = (
        TensorDescriptor.from_tensor(t.view(torch.int32).flatten(0, -2), [BLOCK, WORDS], TILE)
        for t in (copy.data, copy.data_t)
    )
    adamw_quantize_kernel[(copy.scale.numel(),)](
        param, grad, m, v, q_desc, t_desc, copy.scale, numbers, *param.shape[-2:], *astuple(hyper),
        SLAB=SLAB, num_warps=WARPS, maxnreg=REGISTERS,
    )  # fmt: skip
