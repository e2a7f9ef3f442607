"""The sequence-wise balance loss in Triton: one read of the scores forward, one backward."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import library

TILE_ELEMENTS = 4096
"""Tokens times experts that a program handles."""


@triton.jit
def _shares(scores_ptr, valid_ptr, S, E, BT: tl.constexpr, EP: tl.constexpr, MASKED: tl.constexpr):
    """Of this program's tokens: place, which are real, scores divided by their sum, and that sum."""
    t = tl.program_id(1) * BT + tl.arange(0, BT)
    at = tl.program_id(0).to(tl.int64) * S + t
    real = t < S
    if MASKED:
        real &= tl.load(valid_ptr + at, mask=real, other=0) != 0
    e = tl.arange(0, EP)
    inside = real[:, None] & (e < E)[None, :]
    scores = tl.load(scores_ptr + at[:, None] * E + e[None, :], mask=inside, other=0.0)
    total = tl.sum(scores, 1) + 1e-20
    return at, real, scores / total[:, None], total


@triton.jit
def _balance_parts(
    scores_ptr, highest_ptr, valid_ptr, parts_ptr, S, E,
    K: tl.constexpr, BT: tl.constexpr, EP: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Three rows a program: how often each expert is among the highest, sums of shares, number of tokens."""
    at, real, shares, _total = _shares(scores_ptr, valid_ptr, S, E, BT, EP, MASKED)
    e = tl.arange(0, EP)
    hits = tl.zeros((BT, EP), tl.float32)
    for j in tl.static_range(K):
        expert = tl.load(highest_ptr + at * K + j, mask=real, other=-1)
        hits += (expert[:, None] == e[None, :]).to(tl.float32)
    part = parts_ptr + (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64) * 3 * EP
    tl.store(part + e, tl.sum(hits, 0))
    tl.store(part + EP + e, tl.sum(shares, 0))
    tl.store(part + 2 * EP + e, tl.zeros((EP,), tl.float32) + tl.sum(real.to(tl.float32), 0))


@triton.jit
def _balance_total(parts_ptr, loss_ptr, pull_ptr, parts, factor, EP: tl.constexpr):
    """Adds up a sequence's parts: its loss, and the gradient of the loss by each expert's sum of shares."""
    e = tl.arange(0, EP)
    hits = tl.zeros((EP,), tl.float32)
    shares = tl.zeros((EP,), tl.float32)
    tokens = tl.zeros((EP,), tl.float32)
    for i in range(parts):
        part = parts_ptr + (tl.program_id(0) * parts + i).to(tl.int64) * 3 * EP
        hits += tl.load(part + e)
        shares += tl.load(part + EP + e)
        tokens += tl.load(part + 2 * EP + e)
    tokens = tl.maximum(tokens, 1.0)
    pull = hits * factor / (tokens * tokens)
    tl.store(pull_ptr + tl.program_id(0) * EP + e, pull)
    tl.store(loss_ptr + tl.program_id(0), tl.sum(pull * shares, 0))


@triton.jit
def _balance_backward(
    grad_ptr, pull_ptr, scores_ptr, valid_ptr, dscores_ptr, S, E,
    BT: tl.constexpr, EP: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    at, real, shares, total = _shares(scores_ptr, valid_ptr, S, E, BT, EP, MASKED)
    e = tl.arange(0, EP)
    pull = tl.load(pull_ptr + tl.program_id(0) * EP + e) * tl.load(grad_ptr + tl.program_id(0))
    change = (pull[None, :] - tl.sum(shares * pull[None, :], 1)[:, None]) / total[:, None]
    t = tl.program_id(1) * BT + tl.arange(0, BT)
    inside = (t < S)[:, None] & (e < E)[None, :]
    tl.store(dscores_ptr + at[:, None] * E + e[None, :], tl.where(real[:, None], change, 0.0), mask=inside)


def balance_loss(scores: Tensor, highest: Tensor, valid: Tensor | None) -> Tensor:
    """See ``op.balance_loss``."""
    out: Tensor = _BalanceLoss.apply(scores, highest, valid)  # type: ignore[no-untyped-call]
    return out


class _BalanceLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, highest: Tensor, valid: Tensor | None) -> Tensor:
        scores = scores.contiguous()
        loss, pull = _balance_loss(scores, highest, valid)
        ctx.save_for_backward(scores, valid, pull)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        scores, valid, pull = ctx.saved_tensors
        return _balance_loss_backward(grads[0], pull, scores, valid), None, None


def _fake_loss(scores: Tensor, highest: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    sequences, _, experts = scores.shape
    return scores.new_empty(sequences), scores.new_empty(sequences, triton.next_power_of_2(experts))


@library.op(fake=_fake_loss)
def _balance_loss(scores: Tensor, highest: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient by each expert's sum of shares."""
    highest = highest.contiguous()
    mask = highest if valid is None else valid.contiguous().view(torch.uint8)
    sequences, length, experts = scores.shape
    loss, tile = scores.new_zeros(sequences), _tile(scores, valid)
    programs = triton.cdiv(length, tile["BT"])
    parts = scores.new_empty(sequences, programs, 3, tile["EP"])
    pull = scores.new_empty(sequences, tile["EP"])
    if scores.numel():
        k = highest.shape[-1]
        _balance_parts[(sequences, programs)](scores, highest, mask, parts, length, experts, K=k, **tile)
        _balance_total[(sequences,)](parts, loss, pull, programs, experts / k, EP=tile["EP"], num_warps=4)
    return loss, pull


@library.op(fake=lambda grad, pull, scores, valid: torch.empty_like(scores))
def _balance_loss_backward(grad: Tensor, pull: Tensor, scores: Tensor, valid: Tensor | None) -> Tensor:
    mask = scores if valid is None else valid.contiguous().view(torch.uint8)
    sequences, length, experts = scores.shape
    dscores, tile = torch.empty_like(scores), _tile(scores, valid)
    if scores.numel():
        grid = (sequences, triton.cdiv(length, tile["BT"]))
        _balance_backward[grid](grad.contiguous(), pull, scores, mask, dscores, length, experts, **tile)
    return dscores


def _tile(scores: Tensor, valid: Tensor | None) -> dict[str, int]:
    padded = triton.next_power_of_2(scores.shape[-1])
    return {"EP": padded, "BT": max(1, TILE_ELEMENTS // padded), "MASKED": valid is not None, "num_warps": 4}
