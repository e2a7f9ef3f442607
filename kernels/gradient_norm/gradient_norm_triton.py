"""The norm of all gradients in Triton: sums of squares by the chunk, in a fixed order, without atomics."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048
CHUNK = 4 * BLOCK
"""Elements that one program sums."""
GATHERED = 1 << 15
"""Tensors of fewer elements are copied together: a launch for each would take longer."""


@triton.jit
def _sums_of_squares(x_ptr, sums_ptr, count, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * CHUNK
    # In float64 no digit of a long sum is lost; memory is waited for, not arithmetic.
    total = tl.zeros((BLOCK,), tl.float64)
    for offset in range(0, CHUNK, BLOCK):
        i = first + offset + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + i, mask=i < count, other=0.0).to(tl.float64)
        total += x * x
    tl.store(sums_ptr + tl.program_id(0), tl.sum(total, 0))


def gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    """See ``reference.gradient_norm``."""
    parts = [g.contiguous() for g in grads if g.numel() >= GATHERED]
    small = [g.flatten() for g in grads if g.numel() < GATHERED]
    if small:
        parts.append(torch.cat(small))
    programs = [triton.cdiv(part.numel(), CHUNK) for part in parts]
    sums = torch.empty(sum(programs), dtype=torch.float64, device=grads[0].device)
    for part, place in zip(parts, sums.split_with_sizes(programs), strict=True):
        if part.numel():
            _sums_of_squares[(len(place),)](part, place, part.numel(), CHUNK=CHUNK, BLOCK=BLOCK, num_warps=8)
    return sums.sum().float().sqrt()
