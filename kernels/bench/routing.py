"""The router: logits, choice, tables; and rows to their experts and back."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..norm import add_rms_norm_quantize
from ..permute import combine, permute, permute_rows
from ..permute.op import gather_sum
from ..quantize import dequantize, quantize_rows
from ..route import route, route_tables, router_logits
from ..states import Combination, States, without_memory
from .case import (
    ATTENTION_GATE,
    EXACT,
    FP32_GATE,
    ROUNDED_GATE,
    Answer,
    Case,
    Contender,
    moving,
    ours,
    randn,
    uneven_groups,
    using,
)

_EPS = 1e-6


def logits(tokens: int, experts: int, hidden: int) -> Case:
    """Float32 logits, forward and backward, beside a float32 product of a float32 copy."""
    x = randn(tokens, hidden).requires_grad_()
    w = (torch.randn(experts, hidden) * hidden**-0.5).requires_grad_()
    up = torch.randn(tokens, experts)

    def both() -> tuple[Tensor, ...]:
        out = router_logits(x, w)
        return out, *torch.autograd.grad(out, (x, w), up)

    def value() -> Tensor:
        return both()[0].detach()

    peer = Contender("cuBLAS float32", using("router_logits", "reference", both))
    kernel = partial(using, "router_logits", "triton")
    answer = Answer(using("router_logits", "reference", value), FP32_GATE, kernel(value))
    moved = float(tokens * (6 * hidden + 8 * experts))
    work = 6.0 * tokens * experts * hidden
    return Case("TFLOP/s", work, moved, [peer, ours("triton", kernel(both), answer)])


def choice(tokens: int, experts: int, groups: int, kept: int, k: int) -> Case:
    """Choice of experts."""
    scores, bias = torch.randn(tokens, experts), torch.zeros(experts)
    call = partial(route, scores, bias, groups, kept, k, 2.5)
    plain = using("route", "reference", call)

    def value() -> Tensor:
        # Scores that differ in a last bit may change places; their weights stay.
        return call().p.sort(-1).values

    moved = float(tokens * (8 * experts + 12 * k))
    work = 8.0 * tokens * experts
    return moving(moved, work, "route", call, value, ROUNDED_GATE, Contender("torch, op by op", plain))


def tables(tokens: int, experts: int, k: int) -> Case:
    """The tables that put tokens in the order of their experts."""
    idx = torch.rand(tokens, experts).topk(k, -1).indices.int()
    call = partial(route_tables, idx, experts)
    plain = using("route_tables", "reference", call)

    def value() -> Tensor:
        found = call()
        return torch.cat([t.flatten().float() for t in (found.offsets, found.row_token, found.token_pos)])

    moved = float(8 * tokens * k + 4 * call().n_rows)
    peer = Contender("torch, op by op", plain)
    return moving(moved, float(tokens * k), "route_tables", call, value, EXACT, peer)


def quantized_permute(tokens: int, experts: int, k: int, columns: int) -> Case:
    """FP8 rows to their experts."""
    groups = uneven_groups(tokens * k, experts, k)
    a = quantize_rows(randn(tokens, columns))
    call = partial(permute_rows, a, groups)
    moved = float(columns * (tokens + groups.n_rows))
    return moving(moved, 0.0, "permute", call, lambda: dequantize(call()), EXACT)


def plain_permute(tokens: int, experts: int, k: int, columns: int) -> Case:
    """Bfloat16 rows to their experts."""
    groups = uneven_groups(tokens * k, experts, k)
    x = randn(tokens, columns)
    rows = groups.row_token.clamp_min(0)
    call = partial(permute, x, groups)
    peer = Contender("index_select", lambda: x.index_select(0, rows))
    return moving(2.0 * columns * (tokens + groups.n_rows), 0.0, "permute", call, call, EXACT, peer)


def weighted_sum_and_norm(tokens: int, experts: int, k: int, columns: int) -> Case:
    """The weighted sum of experts, made by the norm behind it, as bytes; beside a kernel for each."""
    groups = uneven_groups(tokens * k, experts, k)
    x, extra, w = randn(tokens, columns), randn(tokens, columns), torch.ones(columns)
    y, p = randn(groups.n_rows, columns), torch.rand(tokens, k)
    due = States(without_memory(x), combination=Combination(y, p, groups, extra))
    call = partial(add_rms_norm_quantize, x, due, w, _EPS, keep=False)

    def apart() -> tuple[Tensor, States]:
        return add_rms_norm_quantize(x, gather_sum(y, p, groups.token_pos, extra), w, _EPS, keep=False)

    def value() -> Tensor:
        return _bytes(call())

    answer = Answer(using("norm", "reference", value), ATTENTION_GATE, lambda: _bytes(apart()))
    each = ours("a kernel each", apart, answer)
    moved = float(columns * (2 * tokens * k + 7 * tokens))
    case = moving(moved, 3 * moved, "norm", call, value, ATTENTION_GATE, backends=("gluon", "triton"))
    return replace(case, contenders=[*case.contenders, each])


def _bytes(result: tuple[Tensor, States]) -> Tensor:
    rows = result[1].rows
    assert rows is not None
    return dequantize(rows)


def weighted_sum(tokens: int, experts: int, k: int, columns: int) -> Case:
    """Rows of the experts back to their tokens."""
    groups = uneven_groups(tokens * k, experts, k)
    y, p = randn(groups.n_rows, columns), torch.rand(tokens, k)
    call = partial(combine, y, p, groups)
    moved, work = 2.0 * columns * tokens * (1 + k), 2.0 * columns * tokens * k
    return moving(moved, work, "permute", call, call, ROUNDED_GATE)
