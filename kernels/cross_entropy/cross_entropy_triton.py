"""Cross-entropy over logits in Triton: row by row, a row's gradient written over its logits.

A row is read twice, for its sum and for its gradient. A program keeps a multiprocessor to itself, so that all
rows under way together (34 MB for a vocabulary of 128K) are still in the L2 cache when they are read again.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import registry
from .reference import IGNORE, RowSums

BLOCK_COLUMNS = 16384
WARPS = 32
WIDTH = 16
"""Neighbours that share a running maximum: one exponential a logit, and one a lane to move the sum along."""
PROGRAMS_PER_MULTIPROCESSOR = 1


@triton.jit
def _cross_entropy(
    logits_ptr,
    target_ptr,
    loss_ptr,
    square_ptr,
    rows,
    V,
    row_stride,
    weight,
    z_loss,
    IGNORED: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        row_ptr = logits_ptr + row * tl.cast(row_stride, tl.int64)
        target = tl.load(target_ptr + row)
        kept = target != IGNORED
        log_sum = _log_sum(row_ptr, V, BLOCK, WIDTH)
        # A target outside the vocabulary makes the loss NaN: it is never used as an address.
        exists = (target >= 0) & (target < V)
        chosen = tl.load(row_ptr + target, mask=exists, other=float("nan")).to(tl.float32)
        tl.store(loss_ptr + row, tl.where(kept, log_sum - chosen, 0.0))
        tl.store(square_ptr + row, tl.where(kept, log_sum * log_sum, 0.0))
        if GRADIENT:
            tl.debug_barrier()  # the logit of the target is read before it is overwritten
            factor = tl.where(kept, weight, 0.0)
            drift = 1.0 + 2.0 * z_loss * log_sum
            for start in tl.range(0, V, BLOCK // 2):
                v = start + tl.arange(0, BLOCK // 2)
                x = tl.load(row_ptr + v, mask=v < V, other=float("-inf")).to(tl.float32)
                gradient = (tl.exp(x - log_sum) * drift - tl.where(v == target, 1.0, 0.0)) * factor
                tl.store(row_ptr + v, gradient.to(logits_ptr.dtype.element_ty), mask=v < V)


@triton.jit
def _log_sum(row_ptr, V, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """The logarithm of the softmax's denominator."""
    lane = tl.arange(0, BLOCK // WIDTH)
    largest = tl.full((BLOCK // WIDTH,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK // WIDTH,), tl.float32)
    for start in tl.range(0, V, BLOCK):
        v = start + lane[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
        x = tl.load(row_ptr + v, mask=v < V, other=float("-inf")).to(tl.float32)
        # Each lane keeps its own maximum; -inf minus -inf is avoided by a finite stand-in.
        above = tl.maximum(largest, tl.max(x, 1))
        safe = tl.where(above == float("-inf"), 0.0, above)
        total = total * tl.exp(largest - safe) + tl.sum(tl.exp(x - safe[:, None]), 1)
        largest = above
    peak = tl.max(largest, 0)
    return peak + tl.log(tl.sum(total * tl.exp(largest - peak), 0))


def row_sums(logits: Tensor, target: Tensor, want_gradient: bool, weight: float, z_loss: float) -> RowSums:
    """See ``reference.row_sums``; the gradient takes the place of ``logits``."""
    rows, vocabulary = logits.shape
    loss, square = torch.zeros(2, rows, dtype=torch.float32, device=logits.device)
    if rows:
        programs = min(rows, PROGRAMS_PER_MULTIPROCESSOR * registry.multiprocessors(logits.device))
        _cross_entropy[(programs,)](
            logits,
            target.contiguous(),
            loss,
            square,
            rows,
            vocabulary,
            logits.stride(0),
            weight,
            z_loss,
            IGNORED=IGNORE,
            GRADIENT=want_gradient,
            BLOCK=min(BLOCK_COLUMNS, max(WIDTH, triton.next_power_of_2(vocabulary))),
            WIDTH=WIDTH,
            num_warps=WARPS,
        )
    return RowSums(loss.sum(), square.sum(), logits if want_gradient else None)
