"""SwiGLU with quantised results in Triton. A program handles one tile."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..arguments import FP8
from ..quantize.quantize_triton import cast, magnitude, power_of_two_scale, shift
from ..types import BLOCK, RowQ, SwiGLUGradients, TokQ

ROW_TILE = (8, 256)
"""Rows and columns a program of the forward pass handles."""
BACKWARD_WIDTH, BACKWARD_WARPS = 64, 16
"""Columns handled at a time. On an H100 0.60 of copy speed; 32 columns and 8 warps 0.54."""


@triton.jit
def _swiglu_quantize(h_ptr, q_ptr, s_ptr, M, columns, s_stride, BM: tl.constexpr, BK: tl.constexpr):
    m = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    i = tl.program_id(1) * BK + tl.arange(0, BK)
    inside = (m < M)[:, None] & (i < columns)[None, :]
    at = m[:, None] * 2 * columns + i[None, :]
    gate = tl.load(h_ptr + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(h_ptr + at + columns, mask=inside, other=0.0).to(tl.float32)
    tiles = tl.reshape(gate * tl.sigmoid(gate) * up, (BM, BK // 128, 128))
    scale = power_of_two_scale(tl.max(magnitude(tiles), 2))
    q = tl.reshape(cast(tiles, scale[:, :, None]), (BM, BK))
    tl.store(q_ptr + m[:, None] * columns + i[None, :], q, mask=inside)
    block = tl.program_id(1) * (BK // 128) + tl.arange(0, BK // 128)
    kept = (m < s_stride)[:, None] & (block < columns // 128)[None, :]
    tl.store(s_ptr + block[None, :] * s_stride + m[:, None], scale, mask=kept)


@triton.jit
def _operands(h_ptr, ds_ptr, p, m, i, M, columns):
    """Part of a tile: silu(gate), up, the slope of silu times up, and the gradient before and after p."""
    inside = (m < M)[:, None]
    at = m[:, None] * 2 * columns + i[None, :]
    gate = tl.load(h_ptr + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(h_ptr + at + columns, mask=inside, other=0.0).to(tl.float32)
    ds = tl.load(ds_ptr + m[:, None] * columns + i[None, :], mask=inside, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    slope = up * (sigmoid + gate * sigmoid * (1.0 - sigmoid))
    return gate * sigmoid, up, slope, ds, ds * p[:, None]


@triton.jit
def _store(x, scale, largest, m, k, q_ptr, t_ptr, M, row_size, t_stride, ROWS: tl.constexpr):
    """Quantise part of a tile; write its bytes transposed at one scale, and if ROWS as they are."""
    q = cast(x, scale[:, None])
    if ROWS:
        tl.store(q_ptr + m[:, None] * row_size + k[None, :], q, mask=(m < M)[:, None])
    at = k.to(tl.int64)[:, None] * t_stride + m[None, :]
    tl.store(t_ptr + at, tl.trans(shift(q, scale[:, None], largest)))


@triton.jit
def _swiglu_backward_quantize(
    ds_ptr, h_ptr, p_ptr, q_ptr, s_ptr, t_ptr, ts_ptr, a_ptr, as_ptr, dp_ptr,
    M, columns, s_stride, t_stride, WEIGHTED: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """A tile of 128x128, twice, WIDTH columns at a time: for the largest of each row, then for the bytes.

    The second time it comes from the L1 cache. Held in registers, three results at once would spill.
    """
    block = tl.program_id(0)
    m = block.to(tl.int64) * 128 + tl.arange(0, 128)
    column = tl.program_id(1)
    blocks = columns // 128
    p = tl.load(p_ptr + m, mask=m < M, other=0.0) if WEIGHTED else tl.full((128,), 1.0, tl.float32)
    top_s = tl.zeros((128,), tl.float32)
    top_gate = tl.zeros((128,), tl.float32)
    top_up = tl.zeros((128,), tl.float32)
    dp = tl.zeros((128,), tl.float32)
    for start in range(0, 128, WIDTH):
        i = column * 128 + start + tl.arange(0, WIDTH)
        silu, up, slope, ds, dsp = _operands(h_ptr, ds_ptr, p, m, i, M, columns)
        dp += tl.sum(ds * silu * up, 1)
        top_s = tl.maximum(top_s, tl.max(magnitude(silu * up * p[:, None]), 1))
        top_gate = tl.maximum(top_gate, tl.max(magnitude(dsp * slope), 1))
        top_up = tl.maximum(top_up, tl.max(magnitude(dsp * silu), 1))
    tl.store(dp_ptr + column * M + m, dp, mask=m < M)
    scale_s, largest_s = _scales(top_s, as_ptr + column * (t_stride // 128) + block)
    scale_gate, largest_gate = _scales(top_gate, ts_ptr + column * (t_stride // 128) + block)
    scale_up, largest_up = _scales(top_up, ts_ptr + (column + blocks) * (t_stride // 128) + block)
    tl.store(s_ptr + column * s_stride + m, scale_gate, mask=m < s_stride)
    tl.store(s_ptr + (column + blocks) * s_stride + m, scale_up, mask=m < s_stride)
    size = 2 * columns
    for start in range(0, 128, WIDTH):
        i = column * 128 + start + tl.arange(0, WIDTH)
        silu, up, slope, ds, dsp = _operands(h_ptr, ds_ptr, p, m, i, M, columns)
        _store(silu * up * p[:, None], scale_s, largest_s, m, i, q_ptr, a_ptr, M, 0, t_stride, False)
        _store(dsp * slope, scale_gate, largest_gate, m, i, q_ptr, t_ptr, M, size, t_stride, True)
        _store(dsp * silu, scale_up, largest_up, m, i + columns, q_ptr, t_ptr, M, size, t_stride, True)


@triton.jit
def _scales(top, largest_ptr):
    """Of each row, and of the tile, which is stored."""
    scale = power_of_two_scale(top)
    largest = tl.max(scale, 0)
    tl.store(largest_ptr, largest)
    return scale, largest


def swiglu_quantize(h: Tensor) -> RowQ:
    """See ``quantized.swiglu_quantize``."""
    h = h.contiguous()
    rows, columns = h.shape[0], h.shape[1] // 2
    out = _empty_rows(h, rows, columns)
    if h.numel():
        grid = (triton.cdiv(out.scale.shape[1], ROW_TILE[0]), triton.cdiv(columns, ROW_TILE[1]))
        _swiglu_quantize[grid](
            h, out.data, out.scale, rows, columns, out.scale.stride(0), *ROW_TILE, num_warps=4
        )
    return out


def swiglu_backward_quantize(ds: Tensor, h: Tensor, p: Tensor | None) -> SwiGLUGradients:
    """See ``quantized.swiglu_backward_quantize``."""
    ds, h = ds.contiguous(), h.contiguous()
    rows, columns = ds.shape
    dh = _empty_rows(h, rows, 2 * columns)
    dh_t, s_t = _empty_tokens(h, rows, 2 * columns), _empty_tokens(h, rows, columns)
    dp = torch.empty(columns // BLOCK, rows, dtype=torch.float32, device=h.device)
    if h.numel():
        grid = (triton.cdiv(rows, BLOCK), columns // BLOCK)
        written = (dh.data, dh.scale, dh_t.data, dh_t.scale, s_t.data, s_t.scale, dp)
        _swiglu_backward_quantize[grid](
            ds, h, dp if p is None else p.contiguous(), *written, rows, columns,
            dh.scale.stride(0), dh_t.data.stride(0), WEIGHTED=p is not None, WIDTH=BACKWARD_WIDTH,
            num_warps=BACKWARD_WARPS,
        )  # fmt: skip
    return SwiGLUGradients(dh, dh_t, s_t, dp.sum(0))


def _empty_rows(like: Tensor, rows: int, columns: int) -> RowQ:
    data = torch.empty(rows, columns, dtype=FP8, device=like.device)
    return RowQ(data, torch.empty(triton.cdiv(columns, BLOCK), -(-rows // 4) * 4, device=like.device))


def _empty_tokens(like: Tensor, rows: int, features: int) -> TokQ:
    blocks = triton.cdiv(rows, BLOCK)
    data = torch.empty(features, blocks * BLOCK, dtype=FP8, device=like.device)
    return TokQ(data, torch.empty(triton.cdiv(features, BLOCK), blocks, device=like.device))
