"""Cross-entropy over logits in Triton: a row a program, its gradient written over its logits."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import IGNORE

BLOCK_COLUMNS = 4096
WARPS = 8


@triton.jit
def _cross_entropy(
    logits_ptr,
    target_ptr,
    loss_ptr,
    V,
    row_stride,
    IGNORED: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * row_stride
    target = tl.load(target_ptr + row)
    kept = target != IGNORED
    largest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        v = start + tl.arange(0, BLOCK)
        x = tl.load(logits_ptr + v, mask=v < V, other=float("-inf")).to(tl.float32)
        # Each lane keeps its own maximum; -inf minus -inf is avoided by a finite stand-in.
        above = tl.maximum(largest, x)
        safe = tl.where(above == float("-inf"), 0.0, above)
        total = total * tl.exp(largest - safe) + tl.exp(x - safe)
        largest = above
    peak = tl.max(largest, 0)
    log_sum = peak + tl.log(tl.sum(total * tl.exp(largest - peak), 0))
    # A target outside the vocabulary makes the loss NaN: it is never used as an address.
    exists = (target >= 0) & (target < V)
    chosen = tl.load(logits_ptr + target, mask=exists, other=float("nan")).to(tl.float32)
    tl.store(loss_ptr + row, tl.where(kept, log_sum - chosen, 0.0))
    if GRADIENT:
        tl.debug_barrier()  # the logit of the target is read before it is overwritten
        for start in range(0, V, BLOCK):
            v = start + tl.arange(0, BLOCK)
            x = tl.load(logits_ptr + v, mask=v < V, other=float("-inf")).to(tl.float32)
            gradient = tl.exp(x - log_sum) - tl.where(v == target, 1.0, 0.0)
            gradient = tl.where(kept, gradient, 0.0)
            tl.store(logits_ptr + v, gradient.to(logits_ptr.dtype.element_ty), mask=v < V)


def loss_and_gradient(logits: Tensor, target: Tensor, want_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """See ``reference.loss_and_gradient``; the gradient takes the place of ``logits``."""
    rows, vocabulary = logits.shape
    loss = torch.zeros(rows, dtype=torch.float32, device=logits.device)
    if rows:
        _cross_entropy[(rows,)](
            logits,
            target.contiguous(),
            loss,
            vocabulary,
            logits.stride(0),
            IGNORED=IGNORE,
            GRADIENT=want_gradient,
            BLOCK=min(BLOCK_COLUMNS, triton.next_power_of_2(vocabulary)),
            num_warps=WARPS,
        )
    return loss.sum(), logits if want_gradient else None
