"""SwiGLU with quantised results in Triton. A program handles one tile."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..quantize.quantize_triton import SMALLEST_SCALE, cast_tiles, shift, transposed_bytes
from ..types import BLOCK, RowQ, SwiGLUGradients, TokQ, empty_rows, empty_tokens

FORWARD_ROWS = 32
"""Rows of a block of 128 columns that a program of the forward pass handles."""
BACKWARD_ROWS, BACKWARD_WARPS, BACKWARD_REGISTERS = 32, 8, 128
"""Rows handled at a time. With 128 registers a thread, two programs share a multiprocessor: on an H100 0.85
of copy speed, where 16 rows and three programs reach 0.81."""
BACKWARD_STAGES = tl.constexpr(3)
"""Rows under way; without what runs ahead 0.75."""


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)). A root's reciprocal is one instruction, a quotient is ten."""
    root = tl.rsqrt(1.0 + tl.exp2(x * -1.4426950408889634))
    return root * root


@triton.jit
def _swiglu_quantize(h_ptr, q_ptr, s_ptr, M, columns, s_stride, ROWS: tl.constexpr):
    """Programs that follow one another go along the rows: what they read lies side by side."""
    blocks = columns // 128
    block = tl.program_id(0) % blocks
    m = (tl.program_id(0) // blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    i = block * 128 + tl.arange(0, 128)
    inside = (m < M)[:, None]
    at = m[:, None] * 2 * columns + i[None, :]
    gate = tl.load(h_ptr + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(h_ptr + at + columns, mask=inside, other=0.0).to(tl.float32)
    q, scale = cast_tiles(gate * sigmoid(gate) * up)
    tl.store(q_ptr + m[:, None] * columns + i[None, :], q, mask=inside)
    tl.store(s_ptr + block * s_stride + m, scale, mask=m < s_stride)


@triton.jit
def _shifted(q_ptr, row_size, s_ptr, largest, r, rows):
    at = r[:, None] * row_size + tl.arange(0, 128)[None, :]
    q = tl.load(q_ptr + at, mask=(r < rows)[:, None], other=0.0)
    return shift(q, tl.load(s_ptr + r, mask=r < rows, other=SMALLEST_SCALE), largest)


@triton.jit
def _transpose(q_ptr, row_size, s_ptr, largest, t_ptr, largest_ptr, rows, t_stride):
    """A tile's bytes, written by other threads of this program, transposed at one scale."""
    r = tl.arange(0, 32) * 4
    a = _shifted(q_ptr, row_size, s_ptr, largest, r, rows)
    b = _shifted(q_ptr, row_size, s_ptr, largest, r + 1, rows)
    c = _shifted(q_ptr, row_size, s_ptr, largest, r + 2, rows)
    d = _shifted(q_ptr, row_size, s_ptr, largest, r + 3, rows)
    tl.debug_barrier()  # the transpose may lie where these bytes did
    j = tl.arange(0, 128)
    tl.store(t_ptr + j[:, None] * t_stride + j[None, :], transposed_bytes(a, b, c, d))
    tl.store(largest_ptr, largest)


@triton.jit
def _swiglu_backward_quantize(
    ds_ptr, h_ptr, p_ptr, q_ptr, s_ptr, t_ptr, ts_ptr, a_ptr, as_ptr, row_s_ptr, dp_ptr,
    M, columns, s_stride, t_stride, WEIGHTED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A tile of 128x128: ROWS rows at a time become bytes, which are then read back and transposed.

    Three results of a whole tile do not fit in registers. Bytes of s by rows are wanted by nobody else: they
    lie where their transpose will, their scales in ``row_s_ptr``.
    """
    blocks = columns // 128
    column = tl.program_id(0) % blocks
    block = tl.program_id(0) // blocks
    row = block.to(tl.int64) * 128
    rows = M - block * 128
    up_scales = blocks * s_stride
    h_ptr += row * 2 * columns + column * 128
    q_ptr += row * 2 * columns + column * 128
    ds_ptr += row * columns + column * 128
    s_ptr += column * s_stride + row
    row_s_ptr += column * s_stride + row
    dp_ptr += column * M + row
    a_ptr += (column * 128).to(tl.int64) * t_stride + row
    t_ptr += (column * 128).to(tl.int64) * t_stride + row
    k = tl.arange(0, 128)[None, :]
    top_s = tl.zeros((ROWS,), tl.float32)
    top_gate = tl.zeros((ROWS,), tl.float32)
    top_up = tl.zeros((ROWS,), tl.float32)
    for start in tl.range(0, 128, ROWS, num_stages=BACKWARD_STAGES):
        r = start + tl.arange(0, ROWS)
        inside = (r < rows)[:, None]
        kept = row + r < s_stride
        at = r[:, None] * (2 * columns) + k
        gate = tl.load(h_ptr + at, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(h_ptr + columns + at, mask=inside, other=0.0).to(tl.float32)
        ds = tl.load(ds_ptr + r[:, None] * columns + k, mask=inside, other=0.0).to(tl.float32)
        sig = sigmoid(gate)
        silu = gate * sig
        s = silu * up
        tl.store(dp_ptr + r, tl.sum(ds * s, 1), mask=r < rows)
        if WEIGHTED:
            p = tl.load(p_ptr + row + r, mask=r < rows, other=0.0)[:, None]
            s *= p
            ds *= p
        q, scale = cast_tiles(s)
        tl.store(a_ptr + r[:, None] * t_stride + k, q)
        tl.store(row_s_ptr + r, scale, mask=kept)
        top_s = tl.maximum(top_s, scale)
        q, scale = cast_tiles(ds * silu)
        tl.store(q_ptr + columns + at, q, mask=inside)
        tl.store(s_ptr + up_scales + r, scale, mask=kept)
        top_up = tl.maximum(top_up, scale)
        q, scale = cast_tiles(ds * up * (sig + silu * (1.0 - sig)))
        tl.store(q_ptr + at, q, mask=inside)
        tl.store(s_ptr + r, scale, mask=kept)
        top_gate = tl.maximum(top_gate, scale)
    largest_s = tl.max(top_s, 0)
    largest_gate = tl.max(top_gate, 0)
    largest_up = tl.max(top_up, 0)
    tl.debug_barrier()  # from here on threads read what others have stored
    tiles = t_stride // 128
    ts_ptr += column * tiles + block
    size = 2 * columns
    up_t = columns.to(tl.int64) * t_stride
    _transpose(a_ptr, t_stride, row_s_ptr, largest_s, a_ptr, as_ptr + column * tiles + block, rows, t_stride)
    _transpose(q_ptr, size, s_ptr, largest_gate, t_ptr, ts_ptr, rows, t_stride)
    _transpose(q_ptr + columns, size, s_ptr + up_scales, largest_up, t_ptr + up_t,
               ts_ptr + blocks * tiles, rows, t_stride)  # fmt: skip


def swiglu_quantize(h: Tensor) -> RowQ:
    """See ``quantized.swiglu_quantize``."""
    h = h.contiguous()
    rows, columns = h.shape[0], h.shape[1] // 2
    out = RowQ(*empty_rows(rows, columns, h.device))
    if h.numel():
        grid = (columns // BLOCK * triton.cdiv(out.scale.shape[1], FORWARD_ROWS),)
        _swiglu_quantize[grid](
            h, out.data, out.scale, rows, columns, out.scale.stride(0), ROWS=FORWARD_ROWS, num_warps=4
        )
    return out


def swiglu_backward_quantize(ds: Tensor, h: Tensor, p: Tensor | None) -> SwiGLUGradients:
    """See ``quantized.swiglu_backward_quantize``."""
    ds, h = ds.contiguous(), h.contiguous()
    rows, columns = ds.shape
    dh, dh_t, s_t, dp = empty_gradients(h, rows, columns)
    if h.numel():
        grid = (columns // BLOCK * triton.cdiv(rows, BLOCK),)
        row_scale = torch.empty(columns // BLOCK, dh.scale.shape[1], device=h.device)
        written = (dh.data, dh.scale, dh_t.data, dh_t.scale, s_t.data, s_t.scale, row_scale, dp)
        _swiglu_backward_quantize[grid](
            ds, h, dp if p is None else p.contiguous(), *written, rows, columns,
            dh.scale.stride(0), dh_t.data.stride(0), WEIGHTED=p is not None, ROWS=BACKWARD_ROWS,
            num_warps=BACKWARD_WARPS, maxnreg=BACKWARD_REGISTERS,
        )  # fmt: skip
    return SwiGLUGradients(dh, dh_t, s_t, dp.sum(0))


def empty_gradients(h: Tensor, rows: int, columns: int) -> tuple[RowQ, TokQ, TokQ, Tensor]:
    """Where results of the backward pass go; the last holds a partial sum for each block of columns."""
    dp = torch.empty(columns // BLOCK, rows, dtype=torch.float32, device=h.device)
    dh = RowQ(*empty_rows(rows, 2 * columns, h.device))
    dh_t, s_t = (TokQ(*empty_tokens(rows, size, h.device)) for size in (2 * columns, columns))
    return dh, dh_t, s_t, dp
