"""What is measured: each case is one piece of work, and those who do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import registry
from ..gemm import gemm, gemm_torch, wgrad
from ..grouped_gemm import grouped_gemm, grouped_wgrad
from ..permute import permute
from ..quantize import dequantize, quantize_rows, quantize_tokens, quantize_weight, transpose_shift
from ..route import route_tables
from ..types import Groups

BF16_GATE, FP32_GATE = 2e-3, 2e-4


@dataclass(frozen=True)
class Contender:
    """One way of doing a case's work."""

    name: str
    call: Callable[[], Tensor | object]
    gate: float | None = None
    """Bound on the error against ``Case.expected``; None for peers that compute something else (bf16)."""


@dataclass(frozen=True)
class Case:
    """One piece of work; the first contender is the peer that others are compared with."""

    name: str
    work: float
    """Floating-point operations or bytes of one call."""
    unit: str
    contenders: list[Contender]
    expected: Callable[[], Tensor] | None = field(default=None)


def using(op: str, backend: str, call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """``call`` with ``op`` forced to ``backend``."""

    def forced() -> Tensor:
        with registry.override(op, backend):
            return call()

    return forced


def _randn(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def dense(tokens: int, n: int, k: int) -> Case:
    """fprop of one layer."""
    x, w = _randn(tokens, k), _randn(n, k)
    a, b = quantize_rows(x), quantize_weight(w)

    def ours() -> Tensor:
        return gemm(a, b)

    contenders = [
        Contender(
            "cuBLAS block fp8", lambda: gemm_torch.scaled_mm(a.data, a.scale, b.data, b.scale), BF16_GATE
        ),
        Contender("cuBLAS bf16", lambda: x @ w.t()),
        Contender("gluon", using("gemm", "gluon", ours), BF16_GATE),
        Contender("triton", using("gemm", "triton", ours), BF16_GATE),
    ]
    return Case(
        f"gemm {tokens}x{n}x{k}",
        2.0 * tokens * n * k,
        "TFLOP/s",
        contenders,
        lambda: dequantize(a) @ dequantize(b).t(),
    )


def dense_wgrad(tokens: int, n: int, k: int) -> Case:
    """wgrad of one layer, both recipes."""
    g, x = _randn(tokens, n), _randn(tokens, k)
    g3, x3 = quantize_tokens(g), quantize_tokens(x)
    gs, xs = transpose_shift(quantize_rows(g)), transpose_shift(quantize_rows(x))
    total = torch.zeros(n, k, device="cuda")
    contenders = [
        Contender("cuBLAS bf16", lambda: g.t() @ x),
        Contender("gluon v3", using("wgrad", "gluon", lambda: wgrad(g3, x3)), FP32_GATE),
        Contender("gluon shift", using("wgrad", "gluon", lambda: wgrad(gs, xs))),
        Contender("gluon shift +=", using("wgrad", "gluon", lambda: wgrad(gs, xs, total, True))),
        Contender("triton shift", using("wgrad", "triton", lambda: wgrad(gs, xs))),
    ]
    expected = lambda: dequantize(g3) @ dequantize(x3).t()  # noqa: E731
    return Case(f"wgrad {n}x{k} over {tokens}", 2.0 * tokens * n * k, "TFLOP/s", contenders, expected)


def _groups(rows: int, experts: int) -> Groups:
    """Choices as uneven as a trained router's: sizes within about 30 % of one another."""
    weight = 1 + 0.6 * (torch.rand(experts, device="cuda") - 0.5)
    return route_tables(torch.multinomial(weight, rows, replacement=True).int()[:, None], experts)


def grouped(experts: int, rows: int, n: int, k: int) -> Case:
    """fprop of the experts."""
    groups = _groups(rows, experts)
    x, w = permute(_randn(rows, k), groups), _randn(experts, n, k)
    a, b = quantize_rows(x), quantize_weight(w)

    def ours() -> Tensor:
        return grouped_gemm(a, b, groups)

    def bf16() -> Tensor:
        product: Tensor = torch._grouped_mm(x, w.transpose(1, 2), offs=groups.offsets[1:])
        return product

    contenders = [
        Contender("_grouped_mm bf16", bf16),
        Contender("gluon", using("grouped_gemm", "gluon", ours)),
        Contender("triton", using("grouped_gemm", "triton", ours)),
    ]
    return Case(f"grouped {experts}x{rows}x{n}x{k}", 2.0 * rows * n * k, "TFLOP/s", contenders)


def grouped_gradient(experts: int, rows: int, n: int, k: int) -> Case:
    """wgrad of the experts, both recipes."""
    groups = _groups(rows, experts)
    g, x = permute(_randn(rows, n), groups), permute(_randn(rows, k), groups)
    g3, x3 = quantize_tokens(g), quantize_tokens(x)
    gs, xs = transpose_shift(quantize_rows(g)), transpose_shift(quantize_rows(x))
    total = torch.zeros(experts, n, k, device="cuda")

    def bf16() -> Tensor:
        product: Tensor = torch._grouped_mm(g.t(), x, offs=groups.offsets[1:])
        return product

    def ours(*arguments: object) -> Callable[[], Tensor]:
        return using("grouped_wgrad", "gluon", lambda: grouped_wgrad(*arguments))  # type: ignore[arg-type]

    contenders = [
        Contender("_grouped_mm bf16", bf16),
        Contender("gluon v3", ours(g3, x3, groups)),
        Contender("gluon shift", ours(gs, xs, groups)),
        Contender("gluon shift +=", ours(gs, xs, groups, total, True)),
    ]
    return Case(f"grouped wgrad {experts}x{rows}x{n}x{k}", 2.0 * rows * n * k, "TFLOP/s", contenders)


def casts(rows: int, columns: int) -> list[Case]:
    """Casts, in bytes that must move, beside a copy of as many."""
    x = _randn(rows, columns)
    a = quantize_rows(x)
    w = torch.randn(rows, columns, device="cuda")
    elements = rows * columns
    work: list[tuple[str, float, Callable[[], object]]] = [
        ("quantize_rows", 3 + 4 / 128, lambda: quantize_rows(x)),
        ("quantize_tokens", 3 + 4 / 128, lambda: quantize_tokens(x)),
        ("quantize_weight", 6, lambda: quantize_weight(w)),
        ("transpose_shift", 2, lambda: transpose_shift(a)),
    ]
    cases = []
    for name, bytes_each, call in work:
        source = torch.empty(int(elements * bytes_each / 2), dtype=torch.int8, device="cuda")
        target = torch.empty_like(source)
        copy = Contender("copy", lambda s=source, t=target: t.copy_(s))  # type: ignore[misc]
        contenders = [copy, Contender("triton", call)]
        cases.append(Case(f"{name} {rows}x{columns}", elements * bytes_each, "GB/s", contenders))
    return cases


def attention_case(batch: int, length: int, heads: int) -> Case:
    """The attention core with V3's head sizes: cuDNN's, for the record."""
    q, k = _randn(batch, heads, length, 192), _randn(batch, heads, length, 192)
    v = _randn(batch, heads, length, 128)
    call = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
    flops = batch * heads * length * length * (192 + 128)
    return Case(f"attention {batch}x{length}x{heads}", float(flops), "TFLOP/s", [Contender("sdpa", call)])
