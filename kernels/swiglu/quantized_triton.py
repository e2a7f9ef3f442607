"""SwiGLU with quantised results in Triton. A program handles one tile and reads it once."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..arguments import FP8
from ..quantize.quantize_triton import cast, magnitude, power_of_two_scale, shift_to
from ..types import BLOCK, RowQ, SwiGLUGradients, TokQ

ROW_TILE = (8, 256)
"""Rows and columns a program of the forward pass handles."""
BACKWARD_WARPS = 8


@triton.jit
def _forward(h_ptr, q_ptr, s_ptr, M, columns, s_stride, BM: tl.constexpr, BK: tl.constexpr):
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
def _store(x, m, column, q_ptr, s_ptr, t_ptr, ts_ptr, M, row_size, s_stride, t_stride, ROWS: tl.constexpr):
    """Quantise a tile along its rows; write its bytes transposed at one scale, and if ROWS as they are."""
    scale = power_of_two_scale(tl.max(magnitude(x), 1))
    q = cast(x, scale[:, None])
    k = column * 128 + tl.arange(0, 128)
    if ROWS:
        tl.store(q_ptr + m[:, None] * row_size + k[None, :], q, mask=(m < M)[:, None])
        tl.store(s_ptr + column * s_stride + m, scale, mask=m < s_stride)
    largest = tl.max(scale, 0)
    shifted = tl.trans((q.to(tl.float32) * shift_to(largest, scale)[:, None]).to(tl.float8e4nv))
    tl.store(t_ptr + k.to(tl.int64)[:, None] * t_stride + m[None, :], shifted)
    tl.store(ts_ptr + column * (t_stride // 128) + tl.program_id(0), largest)


@triton.jit
def _operands(h_ptr, ds_ptr, m, column, M, columns):
    """A tile of gate, of up and of the gradient that comes back."""
    i = column * 128 + tl.arange(0, 128)
    inside = (m < M)[:, None]
    at = m[:, None] * 2 * columns + i[None, :]
    gate = tl.load(h_ptr + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(h_ptr + at + columns, mask=inside, other=0.0).to(tl.float32)
    ds = tl.load(ds_ptr + m[:, None] * columns + i[None, :], mask=inside, other=0.0).to(tl.float32)
    return gate, up, ds


@triton.jit
def _backward(
    ds_ptr, h_ptr, p_ptr, q_ptr, s_ptr, t_ptr, ts_ptr, a_ptr, as_ptr, dp_ptr,
    M, columns, s_stride, t_stride, WEIGHTED: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * 128 + tl.arange(0, 128)
    column = tl.program_id(1)
    size = 2 * columns
    p = tl.load(p_ptr + m, mask=m < M, other=0.0) if WEIGHTED else tl.full((128,), 1.0, tl.float32)
    # Each result reads its operands anew, from the L1 cache: held in registers they would spill.
    gate, up, ds = _operands(h_ptr, ds_ptr, m, column, M, columns)
    s = gate * tl.sigmoid(gate) * up
    tl.store(dp_ptr + column * M + m, tl.sum(ds * s, 1), mask=m < M)
    _store(s * p[:, None], m, column, q_ptr, s_ptr, a_ptr, as_ptr, M, 0, s_stride, t_stride, False)
    tl.debug_barrier()
    gate, up, ds = _operands(h_ptr, ds_ptr, m, column, M, columns)
    sigmoid = tl.sigmoid(gate)
    dgate = ds * p[:, None] * up * (sigmoid + gate * sigmoid * (1.0 - sigmoid))
    _store(dgate, m, column, q_ptr, s_ptr, t_ptr, ts_ptr, M, size, s_stride, t_stride, True)
    tl.debug_barrier()
    gate, up, ds = _operands(h_ptr, ds_ptr, m, column, M, columns)
    dup = ds * p[:, None] * gate * tl.sigmoid(gate)
    column += columns // 128
    _store(dup, m, column, q_ptr, s_ptr, t_ptr, ts_ptr, M, size, s_stride, t_stride, True)


def swiglu_quantize(h: Tensor) -> RowQ:
    """See ``quantized.swiglu_quantize``."""
    h = h.contiguous()
    rows, columns = h.shape[0], h.shape[1] // 2
    out = _empty_rows(h, rows, columns)
    if h.numel():
        grid = (triton.cdiv(out.scale.shape[1], ROW_TILE[0]), triton.cdiv(columns, ROW_TILE[1]))
        _forward[grid](h, out.data, out.scale, rows, columns, out.scale.stride(0), *ROW_TILE, num_warps=4)
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
        _backward[grid](
            ds, h, dp if p is None else p.contiguous(), *written, rows, columns,
            dh.scale.stride(0), dh_t.data.stride(0), WEIGHTED=p is not None, num_warps=BACKWARD_WARPS,
        )  # fmt: skip
    return SwiGLUGradients(dh, dh_t, s_t, dp.sum(0))


def _empty_rows(like: Tensor, rows: int, columns: int) -> RowQ:
    data = torch.empty(rows, columns, dtype=FP8, device=like.device)
    return RowQ(data, torch.empty(triton.cdiv(columns, BLOCK), -(-rows // 4) * 4, device=like.device))


def _empty_tokens(like: Tensor, rows: int, features: int) -> TokQ:
    blocks = triton.cdiv(rows, BLOCK)
    data = torch.empty(features, blocks * BLOCK, dtype=FP8, device=like.device)
    return TokQ(data, torch.empty(triton.cdiv(features, BLOCK), blocks, device=like.device))
