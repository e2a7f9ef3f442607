"""Moving rows to their experts and back, in Triton. Rows are read where they are; sums are float32."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..types import BLOCK, Groups, RowQ
from .reference import row_weights

BLOCK_COLUMNS = 1024
BYTE_TILE, TILE = (16, 4 * BLOCK), (16, 2 * BLOCK)
"""Rows and columns that a program of ``gather_quantized`` moves, and one of ``gather_rows``."""
SMALLEST_SCALE = tl.constexpr(2.0**-126)


@triton.jit
def _rows(row_token_ptr, D, R, BM: tl.constexpr, BD: tl.constexpr):
    """Rows and columns of a program's tile, the token of each row, and what lies inside."""
    r = tl.program_id(0) * BM + tl.arange(0, BM)
    token = tl.load(row_token_ptr + r, mask=r < R, other=-1).to(tl.int64)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    return r, d, token, (r < R)[:, None] & (d < D)[None, :]


@triton.jit
def _gather(
    x_ptr, weight_ptr, row_token_ptr, out_ptr, D, R,
    WEIGHTED: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """out[r] = x[row_token[r]] (times weight[r]); zero where there is no token."""
    r, d, token, inside = _rows(row_token_ptr, D, R, BM, BD)
    x = tl.load(x_ptr + token[:, None] * D + d[None, :], mask=inside & (token >= 0)[:, None], other=0.0)
    if WEIGHTED:
        x = (x.to(tl.float32) * tl.load(weight_ptr + r, mask=r < R, other=0.0)[:, None]).to(x.dtype)
    tl.store(out_ptr + r.to(tl.int64)[:, None] * D + d[None, :], x, mask=inside)


@triton.jit
def _gather_sum(
    y_ptr, weight_ptr, token_pos_ptr, extra_ptr, out_ptr, D,
    WEIGHTED: tl.constexpr, EXTRA: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out[t] = sum over choices of y[token_pos[t, i]] (times weight[t, i]) (plus extra[t])."""
    token = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    if EXTRA:
        total += tl.load(extra_ptr + token * D + d, mask=d < D, other=0.0).to(tl.float32)
    for i in range(K):
        row = tl.load(token_pos_ptr + token * K + i).to(tl.int64)
        y = tl.load(y_ptr + row * D + d, mask=(row >= 0) & (d < D), other=0.0).to(tl.float32)
        if WEIGHTED:
            y *= tl.load(weight_ptr + token * K + i).to(tl.float32)
        total += y
    tl.store(out_ptr + token * D + d, total.to(out_ptr.dtype.element_ty), mask=d < D)


@triton.jit
def _row_dots(grad_ptr, y_ptr, token_pos_ptr, out_ptr, D, BLOCK: tl.constexpr):
    """out[t, i] = grad[t] . y[token_pos[t, i]]."""
    token = tl.program_id(0).to(tl.int64)
    choice = tl.program_id(1)
    row = tl.load(token_pos_ptr + token * tl.num_programs(1) + choice).to(tl.int64)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, D, BLOCK):
        d = start + tl.arange(0, BLOCK)
        inside = (row >= 0) & (d < D)
        grad = tl.load(grad_ptr + token * D + d, mask=inside, other=0.0).to(tl.float32)
        total += grad * tl.load(y_ptr + row * D + d, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + token * tl.num_programs(1) + choice, tl.sum(total, 0))


@triton.jit
def _gather_quantized(
    q_ptr, s_ptr, row_token_ptr, out_ptr, out_s_ptr, D, R, s_stride, out_s_stride,
    BM: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Bytes and scales of ``row_token[r]``; zeros at the smallest scale where there is no token."""
    r, d, token, inside = _rows(row_token_ptr, D, R, BM, BD)
    q = tl.load(q_ptr + token[:, None] * D + d[None, :], mask=inside & (token >= 0)[:, None], other=0.0)
    tl.store(out_ptr + r.to(tl.int64)[:, None] * D + d[None, :], q, mask=inside)
    block = tl.program_id(1) * (BD // 128) + tl.arange(0, BD // 128)
    kept = (r < out_s_stride)[:, None] & (block < tl.cdiv(D, 128))[None, :]
    at = block[None, :] * s_stride + token[:, None]
    scale = tl.load(s_ptr + at, mask=kept & (token >= 0)[:, None], other=SMALLEST_SCALE)
    tl.store(out_s_ptr + block[None, :].to(tl.int64) * out_s_stride + r[:, None], scale, mask=kept)


def gather_rows(x: Tensor, groups: Groups) -> Tensor:
    """See ``reference.gather_rows``."""
    return _gather_rows(x, None, groups)


def gather_quantized(a: RowQ, groups: Groups) -> RowQ:
    """See ``reference.gather_quantized``."""
    rows, columns = groups.n_rows, a.data.shape[1]
    data = a.data.new_empty(rows, columns)
    scale = a.scale.new_empty(a.scale.shape[0], -(-rows // 4) * 4)
    if data.numel():
        grid = (triton.cdiv(scale.shape[1], BYTE_TILE[0]), triton.cdiv(columns, BYTE_TILE[1]))
        arguments = (a.data, a.scale, groups.row_token, data, scale, columns, rows)
        _gather_quantized[grid](*arguments, a.scale.stride(0), scale.stride(0), *BYTE_TILE, num_warps=4)
    return RowQ(data, scale)


def gather_sum(y: Tensor, weight: Tensor | None, token_pos: Tensor, extra: Tensor | None = None) -> Tensor:
    """See ``reference.gather_sum``."""
    y, token_pos = y.contiguous(), token_pos.contiguous()
    tokens, k = token_pos.shape
    out = y.new_empty(tokens, y.shape[1])
    if out.numel():
        factors = token_pos if weight is None else weight.contiguous()
        grid = (tokens, triton.cdiv(y.shape[1], BLOCK_COLUMNS))
        added = y if extra is None else extra.contiguous()
        _gather_sum[grid](
            y, factors, token_pos, added, out, y.shape[1],
            WEIGHTED=weight is not None, EXTRA=extra is not None, K=k, BLOCK=BLOCK_COLUMNS,
        )  # fmt: skip
    return out


def spread_rows(grad: Tensor, weight: Tensor, groups: Groups) -> Tensor:
    """See ``reference.spread_rows``."""
    return _gather_rows(grad, row_weights(weight, groups), groups)


def row_dots(grad: Tensor, y: Tensor, groups: Groups) -> Tensor:
    """See ``reference.row_dots``."""
    out = torch.empty(groups.token_pos.shape, dtype=torch.float32, device=y.device)
    if out.numel():
        arguments = (grad.contiguous(), y.contiguous(), groups.token_pos, out, y.shape[1])
        _row_dots[tuple(groups.token_pos.shape)](*arguments, BLOCK=BLOCK_COLUMNS)
    return out


def _gather_rows(x: Tensor, weight: Tensor | None, groups: Groups) -> Tensor:
    x = x.contiguous()
    out = x.new_empty(groups.n_rows, x.shape[1])
    if out.numel():
        rows, columns = out.shape
        grid = (triton.cdiv(rows, TILE[0]), triton.cdiv(columns, TILE[1]))
        factors = groups.row_token if weight is None else weight
        arguments = (x, factors, groups.row_token, out, columns, rows)
        _gather[grid](*arguments, WEIGHTED=weight is not None, BM=TILE[0], BD=TILE[1], num_warps=4)
    return out
