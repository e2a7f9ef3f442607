"""Choosing experts in Triton: one read of the logits, everything else in registers."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import library

TILE_ELEMENTS = 2048
"""Tokens times experts that a program handles."""


@triton.jit
def _take(values, columns):
    """The highest value of each row: where it stands, and the rows without it. Of equals the first."""
    at = tl.argmax(values, 1)
    hit = columns[None, :] == at[:, None]
    return at, hit, tl.where(hit, float("-inf"), values)


@triton.jit
def _limit_groups(biased, BT: tl.constexpr, E: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr):
    """-inf in all but the KEPT groups with the largest sum of two best."""
    grouped = tl.reshape(biased, (BT, GROUPS, E // GROUPS))
    best = tl.argmax(grouped, 2)
    others = tl.where(tl.arange(0, E // GROUPS)[None, None, :] == best[:, :, None], float("-inf"), grouped)
    worth = tl.max(grouped, 2) + tl.max(others, 2)
    kept = tl.zeros((BT, GROUPS), tl.int1)
    for _ in tl.static_range(KEPT):
        _at, hit, worth = _take(worth, tl.arange(0, GROUPS))
        kept |= hit
    return tl.reshape(tl.where(kept[:, :, None], grouped, float("-inf")), (BT, E))


@triton.jit
def _choose_experts(
    logits_ptr, bias_ptr, idx_ptr, p_ptr, scores_ptr, highest_ptr, T, factor,
    BT: tl.constexpr, E: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr, K: tl.constexpr,
    KP: tl.constexpr, NORMALISED: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    real = t < T
    experts = tl.arange(0, E)
    at = t.to(tl.int64)[:, None] * E + experts[None, :]
    scores = tl.sigmoid(tl.load(logits_ptr + at, mask=real[:, None], other=0.0))
    tl.store(scores_ptr + at, scores, mask=real[:, None])
    biased = scores + tl.load(bias_ptr + experts)[None, :]
    if GROUPS > 1:
        biased = _limit_groups(biased, BT, E, GROUPS, KEPT)
    place = tl.arange(0, KP)
    p = tl.zeros((BT, KP), tl.float32)
    rest = scores
    for j in tl.static_range(K):
        expert, hit, biased = _take(biased, experts)
        p = tl.where(place[None, :] == j, tl.sum(tl.where(hit, scores, 0.0), 1)[:, None], p)
        tl.store(idx_ptr + t * K + j, expert, mask=real)
        expert, hit, rest = _take(rest, experts)
        tl.store(highest_ptr + t * K + j, expert, mask=real)
    if NORMALISED:
        p /= tl.sum(p, 1)[:, None] + 1e-20
    inside = real[:, None] & (place < K)[None, :]
    tl.store(p_ptr + t[:, None] * K + place[None, :], p * factor, mask=inside)


@triton.jit
def _choose_experts_backward(
    dp_ptr, dscores_ptr, idx_ptr, scores_ptr, dlogits_ptr, T, factor,
    BT: tl.constexpr, E: tl.constexpr, K: tl.constexpr, NORMALISED: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    real = t < T
    experts = tl.arange(0, E)
    at = t.to(tl.int64)[:, None] * E + experts[None, :]
    scores = tl.load(scores_ptr + at, mask=real[:, None], other=0.0)
    chosen = tl.zeros((BT, E), tl.int1)
    dp = tl.zeros((BT, E), tl.float32)
    for j in tl.static_range(K):
        hit = experts[None, :] == tl.load(idx_ptr + t * K + j, mask=real, other=-1)[:, None]
        chosen |= hit
        dp = tl.where(hit, tl.load(dp_ptr + t * K + j, mask=real, other=0.0)[:, None], dp)
    dp *= factor
    if NORMALISED:
        share = tl.where(chosen, scores, 0.0)
        total = tl.sum(share, 1)[:, None] + 1e-20
        dp = tl.where(chosen, dp - tl.sum(dp * share, 1)[:, None] / total, 0.0) / total
    ds = dp + tl.load(dscores_ptr + at, mask=real[:, None], other=0.0)
    tl.store(dlogits_ptr + at, ds * scores * (1.0 - scores), mask=real[:, None])


def supports(logits: Tensor, n_group: int) -> bool:
    """Whether experts and groups are powers of two, as tiles are."""
    return all(n & (n - 1) == 0 for n in (logits.shape[1], n_group)) and logits.numel() > 0


def route(
    logits: Tensor, bias: Tensor, n_group: int, topk_group: int, k: int, scale: float, norm_topk_prob: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See ``op.route``."""
    choice = (n_group, topk_group, k, scale, norm_topk_prob)
    out: tuple[Tensor, Tensor, Tensor, Tensor] = _Route.apply(logits, bias, choice)  # type: ignore[no-untyped-call]
    return out


class _Route(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, bias: Tensor, choice: tuple[int, int, int, float, bool]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        idx, p, scores, highest = _route(logits.contiguous(), bias.contiguous(), *choice)
        ctx.save_for_backward(idx, scores)
        ctx.scale, ctx.normalised = choice[3:]
        ctx.mark_non_differentiable(idx, highest)
        return idx, p, scores, highest

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        dp, dscores = grads[1].contiguous(), grads[2].contiguous()
        idx, scores = ctx.saved_tensors
        return _route_backward(dp, dscores, idx, scores, ctx.scale, ctx.normalised), None, None


def _empty(
    logits: Tensor, bias: Tensor, n_group: int, topk_group: int, k: int, scale: float, normalised: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens = logits.shape[0]
    idx, highest = (torch.empty(tokens, k, dtype=torch.int32, device=logits.device) for _ in range(2))
    return idx, logits.new_empty(tokens, k), torch.empty_like(logits), highest


@library.op(fake=_empty)
def _route(
    logits: Tensor, bias: Tensor, n_group: int, topk_group: int, k: int, scale: float, normalised: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tokens, experts = logits.shape
    idx, p, scores, highest = _empty(logits, bias, n_group, topk_group, k, scale, normalised)
    rows = _rows(experts)
    _choose_experts[(triton.cdiv(tokens, rows),)](
        logits, bias, idx, p, scores, highest, tokens, scale, BT=rows, E=experts,
        GROUPS=n_group, KEPT=topk_group, K=k, KP=triton.next_power_of_2(k), NORMALISED=normalised,
    )  # fmt: skip
    return idx, p, scores, highest


@library.op(fake=lambda dp, dscores, idx, scores, scale, normalised: torch.empty_like(scores))
def _route_backward(
    dp: Tensor, dscores: Tensor, idx: Tensor, scores: Tensor, scale: float, normalised: bool
) -> Tensor:
    tokens, experts = scores.shape
    rows, dlogits = _rows(experts), torch.empty_like(scores)
    _choose_experts_backward[(triton.cdiv(tokens, rows),)](
        dp, dscores, idx, scores, dlogits, tokens, scale,
        BT=rows, E=experts, K=idx.shape[1], NORMALISED=normalised,
    )  # fmt: skip
    return dlogits


def _rows(experts: int) -> int:
    return max(1, TILE_ELEMENTS // experts)
