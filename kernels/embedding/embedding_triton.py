"""Token embeddings in Triton: rows gathered, and gradients added by whoever owns a token's row."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

GATHER_TILE = (4, 512)
"""Tokens and columns of a program that gathers."""
GRADIENT_TILE = (8, 1024)
"""Tokens that are read at once, and columns of a program that adds gradients. Most tokens occur once; a
frequent one's thousands of rows cost a round trip to memory for each eight."""


@triton.jit
def _embedding_gather(tokens_ptr, w_ptr, out_ptr, T, V, D, BT: tl.constexpr, BD: tl.constexpr):
    """The row of each token; NaN for one outside the vocabulary."""
    t = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    token = tl.load(tokens_ptr + t, mask=t < T, other=0).to(tl.int64)
    known = (token >= 0) & (token < V)
    kept = (t < T)[:, None] & (d < D)[None, :]
    row = tl.load(w_ptr + token[:, None] * D + d[None, :], mask=kept & known[:, None], other=0.0)
    row = tl.where(known[:, None], row, float("nan"))
    tl.store(out_ptr + t[:, None] * D + d[None, :], row.to(out_ptr.dtype.element_ty), mask=kept)


@triton.jit
def _embedding_gradient(
    tokens_ptr, order_ptr, grad_ptr, out_ptr, T, V, D, BT: tl.constexpr, BD: tl.constexpr
):
    """Where a run of equal ones starts in sorted tokens, sum its rows of ``grad`` and add them to ``out``."""
    start = tl.program_id(0)
    token = tl.load(tokens_ptr + start)
    before = tl.load(tokens_ptr + start - 1, mask=start > 0, other=-1)
    if (token != before) & (token >= 0) & (token < V):
        d = tl.program_id(1) * BD + tl.arange(0, BD)
        total = tl.zeros((BT, BD), tl.float32)
        more = True
        while more:
            t = start + tl.arange(0, BT)
            same = (tl.load(tokens_ptr + t, mask=t < T, other=-1) == token) & (t < T)
            row = tl.load(order_ptr + t, mask=same, other=0).to(tl.int64)
            inside = same[:, None] & (d < D)[None, :]
            total += tl.load(grad_ptr + row[:, None] * D + d[None, :], mask=inside, other=0.0).to(tl.float32)
            start += BT
            more = tl.sum(same.to(tl.int32), 0) == BT
        at = out_ptr + token.to(tl.int64) * D + d
        known = tl.load(at, mask=d < D, other=0.0)
        tl.store(at, known + tl.sum(total, 0).to(known.dtype), mask=d < D)


def gather(tokens: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """See ``op.embedding``."""
    tokens, weight = tokens.contiguous(), weight.contiguous()
    size = weight.shape[1]
    out = torch.empty(*tokens.shape, size, dtype=dtype, device=weight.device)
    if out.numel():
        grid = (triton.cdiv(tokens.numel(), GATHER_TILE[0]), triton.cdiv(size, GATHER_TILE[1]))
        _embedding_gather[grid](tokens, weight, out, tokens.numel(), *weight.shape, *GATHER_TILE, num_warps=4)
    return out


def add_gradient(tokens: Tensor, grad: Tensor, out: Tensor) -> None:
    """See ``reference.add_gradient``. How often tokens occur decides the time it takes, but no size."""
    ordered, order = torch.sort(tokens, stable=True)
    if grad.numel():
        grid = (tokens.numel(), triton.cdiv(grad.shape[1], GRADIENT_TILE[1]))
        _embedding_gradient[grid](
            ordered, order, grad.contiguous(), out, tokens.numel(), *out.shape, *GRADIENT_TILE, num_warps=4
        )
