"""Tables that put tokens in the order of their experts, in Triton: a stable counting sort in three launches.

A program counts the choices of some tokens for each expert, one program adds the counts up, and the first
programs come back to give each choice its row: the rows before its expert, those of earlier programs, and its
rank among its own program's choices.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..types import Groups

TILE_ELEMENTS = 16384
"""Choices times experts that a program counts and places."""
SCANNED = 64
"""Programs whose counts, or blocks whose owners, are handled at a time by the one that adds up."""


@triton.jit
def _one_hot(idx_ptr, valid_ptr, count, K, E, MASKED: tl.constexpr, EP: tl.constexpr, CHOICES: tl.constexpr):
    """int32 [CHOICES, EP]: the expert of each of this program's choices; a row of zeros if not routed."""
    i = tl.program_id(0) * CHOICES + tl.arange(0, CHOICES)
    real = i < count
    if MASKED:
        real &= tl.load(valid_ptr + i // K, mask=real, other=0) != 0
    expert = tl.load(idx_ptr + i, mask=real, other=-1).to(tl.int32)
    experts = tl.arange(0, EP)
    return ((expert[:, None] == experts[None, :]) & (experts < E)[None, :]).to(tl.int32)


@triton.jit
def _count_choices(
    idx_ptr, valid_ptr, counts_ptr, count, K, E,
    MASKED: tl.constexpr, EP: tl.constexpr, CHOICES: tl.constexpr,
):  # fmt: skip
    hits = _one_hot(idx_ptr, valid_ptr, count, K, E, MASKED, EP, CHOICES)
    tl.store(counts_ptr + tl.program_id(0) * EP + tl.arange(0, EP), tl.sum(hits, 0))


@triton.jit
def _add_up_choices(
    counts_ptr, starts_ptr, totals_ptr, offsets_ptr, owner_ptr, programs, blocks, E,
    BLOCK: tl.constexpr, EP: tl.constexpr, SCANNED: tl.constexpr,
):  # fmt: skip
    """counts [programs, EP] -> where each program's choices of an expert start, and where experts do."""
    experts = tl.arange(0, EP)
    total = tl.zeros((EP,), tl.int32)
    for first in range(0, programs, SCANNED):
        program = first + tl.arange(0, SCANNED)
        at = program[:, None] * EP + experts[None, :]
        counts = tl.load(counts_ptr + at, mask=(program < programs)[:, None], other=0)
        before = total[None, :] + tl.cumsum(counts, 0) - counts
        tl.store(starts_ptr + at, before, mask=(program < programs)[:, None])
        total += tl.sum(counts, 0)
    padded = (total + BLOCK - 1) // BLOCK * BLOCK
    ends = tl.cumsum(padded, 0)
    tl.store(totals_ptr + experts, total, mask=experts < E)
    tl.store(offsets_ptr + experts + 1, ends, mask=experts < E)
    tl.store(offsets_ptr + experts, 0, mask=experts < 1)
    last = tl.max(ends, 0)
    for first in range(0, blocks, SCANNED):
        block = first + tl.arange(0, SCANNED)
        row = block * BLOCK
        passed = (ends[None, :] <= row[:, None]) & (experts < E)[None, :]
        owner = tl.where(row < last, tl.sum(passed.to(tl.int32), 1), -1)
        tl.store(owner_ptr + block, owner, mask=block < blocks)


@triton.jit
def _place_choices(
    idx_ptr, valid_ptr, starts_ptr, offsets_ptr, row_token_ptr, token_pos_ptr, count, K, E,
    MASKED: tl.constexpr, EP: tl.constexpr, CHOICES: tl.constexpr,
):  # fmt: skip
    hits = _one_hot(idx_ptr, valid_ptr, count, K, E, MASKED, EP, CHOICES)
    experts = tl.arange(0, EP)
    start = tl.load(starts_ptr + tl.program_id(0) * EP + experts)
    start += tl.load(offsets_ptr + experts, mask=experts < E, other=0)
    row = tl.sum(hits * (start[None, :] + tl.cumsum(hits, 0) - 1), 1)
    routed = tl.sum(hits, 1) > 0
    i = tl.program_id(0) * CHOICES + tl.arange(0, CHOICES)
    tl.store(token_pos_ptr + i, tl.where(routed, row, -1), mask=i < count)
    tl.store(row_token_ptr + row, i // K, mask=routed)


def route_tables(idx: Tensor, n_experts: int, valid: Tensor | None, block: int, n_rows: int) -> Groups:
    """See ``reference.route_tables``."""
    tokens, k = idx.shape
    count, padded = tokens * k, triton.next_power_of_2(n_experts)
    choices = max(1, TILE_ELEMENTS // padded)
    programs, blocks = triton.cdiv(count, choices), n_rows // block
    idx = idx.contiguous()
    mask = idx if valid is None else valid.contiguous().view(torch.uint8)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=idx.device)

    counts, starts = empty(2, max(programs, 1), padded)
    groups = Groups(
        offsets=empty(n_experts + 1),
        block_expert=empty(blocks),
        row_token=torch.full((n_rows,), -1, dtype=torch.int32, device=idx.device),
        token_pos=empty(tokens, k),
        counts=empty(n_experts),
        block=block,
    )
    tile = {"EP": padded, "CHOICES": choices, "MASKED": valid is not None, "num_warps": 8}
    if programs:
        _count_choices[(programs,)](idx, mask, counts, count, k, n_experts, **tile)
    _add_up_choices[(1,)](
        counts, starts, groups.counts, groups.offsets, groups.block_expert, programs, blocks, n_experts,
        BLOCK=block, EP=padded, SCANNED=SCANNED, num_warps=8,
    )  # fmt: skip
    if programs:
        tables = (starts, groups.offsets, groups.row_token, groups.token_pos)
        _place_choices[(programs,)](idx, mask, *tables, count, k, n_experts, **tile)
    return groups
