"""The norm of all gradients in Triton: sums of squares by the chunk, in a fixed order, without atomics."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048
CHUNK = 4 * BLOCK
"""Elements that one program sums."""
TENSORS = 16
"""That a launch takes."""
_ALIGNED = 16


@triton.jit(do_not_specialize_on_alignment=("sums_ptr",))
def _sums_of_squares(tensors, counts, sums_ptr, CHUNK: tl.constexpr, BLOCK: tl.constexpr):
    """A chunk of one of ``tensors``, whose programs follow one another."""
    place = tl.program_id(0)
    x_ptr, count, first = tensors[0], counts[0], place * 0
    begun = place * 0
    for t in tl.static_range(1, len(tensors)):
        begun += tl.cdiv(counts[t - 1], CHUNK)
        x_ptr = tl.where(place >= begun, tensors[t], x_ptr)
        count = tl.where(place >= begun, counts[t], count)
        first = tl.where(place >= begun, begun, first)
    start = (place - first).to(tl.int64) * CHUNK
    # In float64 no digit of a long sum is lost; memory is waited for, not arithmetic.
    total = tl.zeros((BLOCK,), tl.float64)
    for offset in range(0, CHUNK, BLOCK):
        i = start + offset + tl.arange(0, BLOCK)
        x = tl.load(x_ptr + i, mask=i < count, other=0.0).to(tl.float64)
        total += x * x
    tl.store(sums_ptr + place, tl.sum(total, 0))


def gradient_norm(grads: Sequence[Tensor]) -> Tensor:
    """See ``reference.gradient_norm``."""
    launches = list(_launches([g.contiguous() for g in grads if g.numel()]))
    programs = [sum(triton.cdiv(part.numel(), CHUNK) for part in parts) for parts in launches]
    sums = torch.empty(sum(programs), dtype=torch.float64, device=grads[0].device)
    for parts, places in zip(launches, sums.split_with_sizes(programs), strict=True):
        # Filled up to one length, or each number of tensors would be compiled.
        missing = 0 if len(parts) == 1 else TENSORS - len(parts)
        tensors = (*parts, *parts[:1] * missing)
        counts = (*(part.numel() for part in parts), *[0] * missing)
        _sums_of_squares[(len(places),)](tensors, counts, places, CHUNK=CHUNK, BLOCK=BLOCK, num_warps=8)
    return sums.sum().float().sqrt()


def _launches(parts: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one dtype together; those of an odd size or place alone: each mixture would be compiled."""
    even: dict[torch.dtype, list[Tensor]] = {}
    for part in parts:
        if part.numel() % _ALIGNED or part.data_ptr() % _ALIGNED:
            yield [part]
        else:
            even.setdefault(part.dtype, []).append(part)
    for together in even.values():
        for first in range(0, len(together), TENSORS):
            yield together[first : first + TENSORS]
