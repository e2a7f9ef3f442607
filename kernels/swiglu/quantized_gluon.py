"""SwiGLU's backward pass with quantised results for Hopper, in Gluon.

A program stays on its multiprocessor and works through tiles of 128x128, ROWS rows at a time. TMA brings
operands, so that what comes next is under way while a tile is transposed. Three results of a tile do not fit
in registers until the largest scale of each is known: they wait in shared memory, as bytes.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from .. import registry
from ..quantize.numbers_gluon import finite, power_of_two_scale
from ..quantize.transpose_gluon import TILE, send_transposed
from ..types import BLOCK, SwiGLUGradients
from .quantized_triton import empty_gradients

ROWS = 32
"""Rows handled at a time."""
STAGES = 2
"""Such parts of a tile under way."""
WARPS, REGISTERS, RESIDENT = 8, 128, 2
"""Of a program; and programs on a multiprocessor, for which so many registers a thread are left."""
OPERANDS = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
WAITING = gl.constexpr(gl.SwizzledSharedLayout(16, 4, 8, [1, 0]))
"""Four words side by side in each of eight groups of four rows lie in 32 different banks."""
FLAT = gl.constexpr(gl.SwizzledSharedLayout(1, 1, 1, [0]))


@gluon.jit
def _fetch(tile, tiles, part, stage, descs, ring, blocks, ROWS: gl.constexpr):
    """Let a part of a tile come, if there is such a tile."""
    ds_desc, h_desc = descs
    ds_s, gate_s, up_s, full = ring
    bar = full.index(stage)
    row = tile // blocks * 128 + part * ROWS
    column = tile % blocks * 128
    wanted = tile < tiles
    mbarrier.expect(bar, 3 * ROWS * 128 * 2, pred=wanted)
    tma.async_copy_global_to_shared(h_desc, [row, column], bar, gate_s.index(stage), pred=wanted)
    tma.async_copy_global_to_shared(h_desc, [row, column + blocks * 128], bar, up_s.index(stage), pred=wanted)
    tma.async_copy_global_to_shared(ds_desc, [row, column], bar, ds_s.index(stage), pred=wanted)


@gluon.jit
def _widen(x):
    """x in float32. Either bfloat16 of a register takes one instruction so, by conversion one takes two."""
    if x.dtype == gl.bfloat16:
        bits = gl.inline_asm_elementwise(
            "shl.b32 $0, $2, 16; and.b32 $1, $2, 0xffff0000;", "=r,=r,r", [x], gl.int32, is_pure=True, pack=2
        )
        return bits.to(gl.float32, bitcast=True)
    else:
        return x.to(gl.float32)


@gluon.jit
def _sigmoid(x):
    """As ``quantized_triton.sigmoid``."""
    root = gl.rsqrt(1.0 + gl.exp2(x * -1.4426950408889634))
    return root * root


@gluon.jit
def _cast(x):
    """As ``quantize_triton.cast_tiles``, for rows of one block."""
    x = finite(x)
    largest = gl.max(gl.abs(x), 1)
    scale, inverse = power_of_two_scale(gl.where(largest > 0, largest, gl.zeros_like(largest)))
    return (x * gl.expand_dims(inverse, 1)).to(gl.float8e4nv), scale


@gluon.jit
def _maxima(a0, a1, a2, b0, b1, b2):
    return gl.maximum(a0, b0), gl.maximum(a1, b1), gl.maximum(a2, b2)


@gluon.constexpr_function
def _squares(elements):
    """128x128, four rows of four columns in a thread at a time, in the order of ``elements``."""
    lanes = [[4, 0], [8, 0], [16, 0], [0, 4], [0, 8]]
    warps = [[32, 0], [64, 0], [0, 64]]
    return gl.DistributedLinearLayout([*elements, [0, 16], [0, 32]], lanes, warps, [], [128, 128])


BY_ROWS = gl.constexpr(_squares([[0, 1], [0, 2], [1, 0], [2, 0]]))
BY_COLUMNS = gl.constexpr(_squares([[1, 0], [2, 0], [0, 1], [0, 2]]))


@gluon.jit
def _transpose(result, largest, t_desc, row, column, largest_ptr):
    """Write a result's bytes transposed, at the largest scale of its rows, from where they wait."""
    bytes_s, scales_s = result
    gl.store(largest_ptr, largest)
    q = bytes_s._reinterpret(gl.float8e4nv, [128, 128], WAITING).load(BY_ROWS)
    scale = scales_s._reinterpret(gl.float32, [128], FLAT).load(gl.SliceLayout(1, BY_ROWS))
    tile_s = bytes_s._reinterpret(gl.float8e4nv, [128, 128], t_desc.layout)
    send_transposed(q, scale, largest, tile_s, t_desc, row, column, BY_COLUMNS)


@gluon.jit
def _keep(result, part, x):
    """A part of a result as bytes, left for ``_transpose``; and its scales."""
    bytes_s, scales_s = result
    q, scale = _cast(x)
    bytes_s.index(part).store(q)
    scales_s.index(part).store(scale)
    return q, scale


@gluon.jit
def _room(ROWS: gl.constexpr):
    """For a result's bytes and scales."""
    bytes_s = gl.allocate_shared_memory(gl.float8e4nv, [128 // ROWS, ROWS, 128], WAITING)
    return bytes_s, gl.allocate_shared_memory(gl.float32, [128 // ROWS, ROWS], FLAT)


@gluon.jit
def swiglu_backward_quantize_kernel(
    ds_desc, h_desc, p_ptr, q_ptr, s_ptr, t_desc, ts_ptr, a_desc, as_ptr, dp_ptr,
    M, columns, s_stride, programs,
    WEIGHTED: gl.constexpr, ROWS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """Gradients of gate and up, by rows and transposed, and SwiGLU's values transposed."""
    PARTS: gl.constexpr = 128 // ROWS
    # Twice eight columns a thread, eight threads a row.
    THREADS: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [8, 1], [1, 0])
    ds_s = gl.allocate_shared_memory(ds_desc.dtype, [STAGES, ROWS, 128], ds_desc.layout)
    gate_s = gl.allocate_shared_memory(h_desc.dtype, [STAGES, ROWS, 128], h_desc.layout)
    up_s = gl.allocate_shared_memory(h_desc.dtype, [STAGES, ROWS, 128], h_desc.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
    values, dgate, dup = _room(ROWS), _room(ROWS), _room(ROWS)
    descs = (ds_desc, h_desc)
    ring = (ds_s, gate_s, up_s, full)
    blocks = columns // 128
    tiles = gl.cdiv(M, 128) * blocks
    for i in gl.static_range(STAGES):
        _fetch(gl.program_id(0), tiles, i, i, descs, ring, blocks, ROWS)
    tile_row = gl.arange(0, ROWS, gl.SliceLayout(1, THREADS))
    k = gl.expand_dims(gl.arange(0, 128, gl.SliceLayout(0, THREADS)), 0)
    phase = 0
    for tile in range(gl.program_id(0), tiles, programs):
        column = tile % blocks
        block = tile // blocks
        row = block.to(gl.int64) * 128
        gate_q_ptr = q_ptr + row * 2 * columns + column * 128
        gate_s_ptr = s_ptr + column * s_stride + row
        top_values = gl.zeros([ROWS], gl.float32, gl.SliceLayout(1, THREADS))
        top_gate = top_values
        top_up = top_values
        for i in gl.static_range(PARTS):
            mbarrier.wait(full.index(i % STAGES), phase)
            gate = gate_s.index(i % STAGES).load(THREADS)
            up = up_s.index(i % STAGES).load(THREADS)
            ds = ds_s.index(i % STAGES).load(THREADS)
            if i + STAGES < PARTS:
                _fetch(tile, tiles, i + STAGES, i % STAGES, descs, ring, blocks, ROWS)
            else:
                _fetch(tile + programs, tiles, i + STAGES - PARTS, i % STAGES, descs, ring, blocks, ROWS)
            if i % STAGES == STAGES - 1:
                phase ^= 1
            r = i * ROWS + tile_row
            real = r < M - block * 128
            inside = gl.expand_dims(real, 1)
            held = r < s_stride - block * 128
            at = gl.expand_dims(r * (2 * columns), 1) + k
            gate = _widen(gate)
            up = _widen(up)
            ds = _widen(ds)
            sig = _sigmoid(gate)
            silu = gate * sig
            s = silu * up
            if i == 0:
                tma.store_wait(0)  # the tile before has left
            up *= sig + silu * (1.0 - sig)
            gl.store(dp_ptr + column * M + row + r, gl.sum(ds * s, 1), mask=real)
            if WEIGHTED:
                p = gl.expand_dims(gl.load(p_ptr + row + r, mask=real, other=0.0), 1)
                s *= p
                ds *= p
            _, scale = _keep(values, i, s)
            top_values = gl.maximum(top_values, scale)
            q, scale = _keep(dgate, i, ds * up)
            gl.store(gate_q_ptr + at, q, mask=inside)
            gl.store(gate_s_ptr + r, scale, mask=held)
            top_gate = gl.maximum(top_gate, scale)
            q, scale = _keep(dup, i, ds * silu)
            gl.store(gate_q_ptr + columns + at, q, mask=inside)
            gl.store(gate_s_ptr + blocks * s_stride + r, scale, mask=held)
            top_up = gl.maximum(top_up, scale)
        top_values, top_gate, top_up = gl.reduce((top_values, top_gate, top_up), 0, _maxima)
        at = column * gl.cdiv(M, 128) + block
        _transpose(values, top_values, a_desc, column * 128, block * 128, as_ptr + at)
        _transpose(dgate, top_gate, t_desc, column * 128, block * 128, ts_ptr + at)
        _transpose(dup, top_up, t_desc, columns + column * 128, block * 128, ts_ptr + tiles + at)
    tma.store_wait(0)


def swiglu_backward_quantize(ds: Tensor, h: Tensor, p: Tensor | None) -> SwiGLUGradients:
    """See ``quantized.swiglu_backward_quantize``; for elements of two bytes, in rows aligned to 16 bytes."""
    rows, columns = ds.shape
    dh, dh_t, s_t, dp = empty_gradients(h, rows, columns)
    if h.numel():
        tiles = columns // BLOCK * triton.cdiv(rows, BLOCK)
        programs = min(tiles, RESIDENT * registry.multiprocessors(h.device))
        read = [TensorDescriptor.from_tensor(x, [ROWS, BLOCK], OPERANDS) for x in (ds, h)]
        t_desc, a_desc = (TensorDescriptor.from_tensor(t.data, [BLOCK, BLOCK], TILE) for t in (dh_t, s_t))
        swiglu_backward_quantize_kernel[(programs,)](
            *read, dp if p is None else p.contiguous(), dh.data, dh.scale, t_desc, dh_t.scale,
            a_desc, s_t.scale, dp, rows, columns, dh.scale.stride(0), programs,
            WEIGHTED=p is not None, ROWS=ROWS, STAGES=STAGES, num_warps=WARPS, maxnreg=REGISTERS,
        )  # fmt: skip
    return SwiGLUGradients(dh, dh_t, s_t, dp.sum(0))
