"""Cases of ops that move more than they compute: bytes that must move, beside a copy of as many."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..adamw import adamw_step
from ..norm import rms_norm
from ..permute import combine, permute_rows
from ..quantize import dequantize, quantize_rows, transpose_shift
from ..route import route_tables
from ..swiglu import swiglu_backward_quantize, swiglu_quantize
from ..types import Groups
from .cases import ATTENTION_GATE, EXACT, Answer, Case, Contender, using

ROUNDED_GATE = 5e-3
"""Between two ways that sum in float32 in different orders and round to bfloat16 or FP8."""


def norms(rows: int, columns: int) -> list[Case]:
    """RMSNorm forward, and forward and backward, on the default device."""
    x = torch.randn(rows, columns, dtype=torch.bfloat16).requires_grad_()
    w, up = torch.ones(columns, requires_grad=True), torch.randn(rows, columns, dtype=torch.bfloat16)

    def forward() -> Tensor:
        with torch.no_grad():
            return rms_norm(x, w, 1e-6)

    def both() -> Tensor:
        return torch.autograd.grad(rms_norm(x, w, 1e-6), (x, w), up)[0]

    elements = rows * columns
    return [
        _case(f"rms_norm {rows}x{columns}", 4.0 * elements, "norm", forward, forward, ROUNDED_GATE),
        _case(f"rms_norm and backward {rows}x{columns}", 10.0 * elements, "norm", both, both, ROUNDED_GATE),
    ]


def swiglus(rows: int, width: int) -> list[Case]:
    """SwiGLU between FP8 products, on the default device."""
    h, ds = (torch.randn(rows, n, dtype=torch.bfloat16) for n in (2 * width, width))
    p, op = torch.rand(rows), "swiglu_quantize"

    def forward() -> Tensor:
        return dequantize(swiglu_quantize(h))

    def backward() -> Tensor:
        return dequantize(swiglu_backward_quantize(ds, h, p).dh)

    # A last bit of the exponential may move a value to the neighbouring FP8 number.
    gate, elements = ATTENTION_GATE, rows * width
    cast = lambda: swiglu_quantize(h)  # noqa: E731
    call = lambda: swiglu_backward_quantize(ds, h, p)  # noqa: E731
    return [
        _case(f"swiglu_quantize {rows}x{width}", 5.0 * elements, op, cast, forward, gate),
        _case(f"swiglu_backward_quantize {rows}x{width}", 11.0 * elements, op, call, backward, gate),
    ]


def moves(tokens: int, experts: int, k: int, columns: int) -> list[Case]:
    """Rows to their experts and back, on the default device."""
    groups = _groups(tokens, experts, k)
    a, p = quantize_rows(torch.randn(tokens, columns, dtype=torch.bfloat16)), torch.rand(tokens, k)
    y = torch.randn(groups.n_rows, columns, dtype=torch.bfloat16)
    # What is gathered is read once from memory and then from the cache.
    moved, name = float(columns * (tokens + groups.n_rows)), f"{tokens}x{columns}, {k} of {experts} experts"

    def out() -> Tensor:
        return dequantize(permute_rows(a, groups))

    def transposed() -> Tensor:
        return dequantize(transpose_shift(a, groups.row_token))

    def back() -> Tensor:
        return combine(y, p, groups)

    gather = lambda: transpose_shift(a, groups.row_token)  # noqa: E731
    combined = 2.0 * columns * (tokens + tokens * k)
    return [
        _case(f"permute_rows {name}", moved, "permute", lambda: permute_rows(a, groups), out, EXACT),
        _case(f"transpose_shift gathered {name}", moved, "quantize", gather, transposed, EXACT),
        _case(f"combine {name}", combined, "permute", back, back, ROUNDED_GATE),
    ]


def optimizer(elements: int) -> Case:
    """AdamW on float32 masters with bfloat16 moments, on the default device."""
    p, grad = torch.randn(elements), torch.randn(elements)
    m, v = (torch.zeros(elements, dtype=torch.bfloat16) for _ in range(2))

    def once() -> Tensor:
        state = [p.clone(), m.clone(), v.clone()]
        adamw_step([state[0]], [grad], [state[1]], [state[2]], 1e-3)
        return state[0]

    moving = [p.clone(), m.clone(), v.clone()]
    step = using("adamw", "triton", lambda: adamw_step(moving[:1], [grad], moving[1:2], moving[2:], 1e-3))
    answer = Answer(using("adamw", "reference", once), 1e-6, using("adamw", "triton", once))
    contenders = [_copy(20.0 * elements), Contender("triton", step, answer)]
    return Case(f"adamw {elements}", 20.0 * elements, "GB/s", contenders)


def _case(
    name: str, moved: float, op: str, call: Callable[[], object], value: Callable[[], Tensor], gate: float
) -> Case:
    answer = Answer(using(op, "reference", value), gate, using(op, "triton", value))
    return Case(name, moved, "GB/s", [_copy(moved), Contender("triton", using(op, "triton", call), answer)])


def _copy(moved: float) -> Contender:
    source = torch.zeros(max(int(moved / 2), 1), dtype=torch.int8)
    target = torch.empty_like(source)
    return Contender("copy", lambda: target.copy_(source))


def _groups(tokens: int, experts: int, k: int) -> Groups:
    """Choices are uneven by about 30 %."""
    weight = 1 + 0.6 * (torch.rand(experts) - 0.5)
    return route_tables(torch.multinomial(weight.expand(tokens, experts), k).int(), experts)
