"""What is measured: each case is one piece of work, and those who do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import registry
from ..attention import find_documents, latent_attention
from ..gemm import gemm, gemm_torch, wgrad
from ..grouped_gemm import grouped_gemm, grouped_wgrad
from ..permute import permute
from ..quantize import dequantize, quantize_rows, quantize_tokens, quantize_weight, transpose_shift
from ..route import route_tables
from ..types import Groups, RowQ, TokQ

T = TypeVar("T")

BF16_GATE, FP32_GATE, EXACT = 2e-3, 2e-4, 0.0
"""Bounds on the relative error of a product written in bfloat16 and in float32, and of a cast."""
ATTENTION_GATE = 1e-2
"""Against a mask written out: both round their probabilities to bfloat16."""


@dataclass(frozen=True)
class Answer:
    """How a contender's accuracy is checked before its speed counts."""

    expected: Callable[[], Tensor]
    """By a reference, of the same operands."""
    gate: float
    given: Callable[[], Tensor] | None = None
    """What is compared, where it is not what the timed call returns."""


@dataclass(frozen=True)
class Contender:
    """One way of doing a case's work; peers that we did not write need no answer."""

    name: str
    call: Callable[[], object]
    answer: Answer | None = None


@dataclass(frozen=True)
class Case:
    """One piece of work; the first contender is the peer that others are compared with."""

    name: str
    work: float
    """Floating-point operations or bytes of one call."""
    unit: str
    contenders: list[Contender]


def using(op: str, backend: str, call: Callable[[], T]) -> Callable[[], T]:
    """``call`` with ``op`` forced to ``backend``."""

    def forced() -> T:
        with registry.override(op, backend):
            return call()

    return forced


def _randn(*shape: int) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def dense(tokens: int, n: int, k: int) -> Case:
    """fprop of one layer."""
    x, w = _randn(tokens, k), _randn(n, k)
    a, b = quantize_rows(x), quantize_weight(w)
    answer = Answer(lambda: dequantize(a) @ dequantize(b).t(), BF16_GATE)

    def ours() -> Tensor:
        return gemm(a, b)

    def library() -> Tensor:
        return gemm_torch.scaled_mm(a.data, a.scale, b.data, b.scale)

    contenders = [
        Contender("cuBLAS block fp8", library, answer),
        Contender("cuBLAS bf16", lambda: x @ w.t()),
        Contender("gluon", using("gemm", "gluon", ours), answer),
        Contender("triton", using("gemm", "triton", ours), answer),
    ]
    return Case(f"gemm {tokens}x{n}x{k}", 2.0 * tokens * n * k, "TFLOP/s", contenders)


def dense_wgrad(tokens: int, n: int, k: int) -> Case:
    """wgrad of one layer, both recipes."""
    g, x = _randn(tokens, n), _randn(tokens, k)
    total = torch.zeros(n, k, device="cuda")
    contenders = [Contender("cuBLAS bf16", lambda: g.t() @ x)]
    for recipe, backends in (("v3", ["gluon"]), ("shift", ["gluon", "triton"])):
        call = partial(wgrad, _along_tokens(g, recipe), _along_tokens(x, recipe))
        contenders += _gradients("wgrad", recipe, backends, total, call)
    return Case(f"wgrad {n}x{k} over {tokens}", 2.0 * tokens * n * k, "TFLOP/s", contenders)


def grouped(experts: int, rows: int, n: int, k: int) -> Case:
    """fprop of the experts."""
    groups = _groups(rows, experts)
    x, w = permute(_randn(rows, k), groups), _randn(experts, n, k)
    a, b = quantize_rows(x), quantize_weight(w)
    end = int(groups.offsets[-1])

    def ours() -> Tensor:
        return grouped_gemm(a, b, groups)

    def bf16() -> Tensor:
        product: Tensor = torch._grouped_mm(x, w.transpose(1, 2), offs=groups.offsets[1:])
        return product

    def contender(backend: str) -> Contender:
        call = using("grouped_gemm", backend, ours)
        # Rows that belong to no expert are not defined.
        reference = using("grouped_gemm", "reference", ours)
        return Contender(backend, call, Answer(lambda: reference()[:end], BF16_GATE, lambda: call()[:end]))

    contenders = [Contender("_grouped_mm bf16", bf16), contender("gluon"), contender("triton")]
    return Case(f"grouped {experts}x{rows}x{n}x{k}", 2.0 * rows * n * k, "TFLOP/s", contenders)


def grouped_gradient(experts: int, rows: int, n: int, k: int) -> Case:
    """wgrad of the experts, both recipes."""
    groups = _groups(rows, experts)
    g, x = permute(_randn(rows, n), groups), permute(_randn(rows, k), groups)
    total = torch.zeros(experts, n, k, device="cuda")

    def bf16() -> Tensor:
        product: Tensor = torch._grouped_mm(g.t(), x, offs=groups.offsets[1:])
        return product

    contenders = [Contender("_grouped_mm bf16", bf16)]
    for recipe in ("v3", "shift"):
        call = partial(grouped_wgrad, _along_tokens(g, recipe), _along_tokens(x, recipe), groups)
        contenders += _gradients("grouped_wgrad", recipe, ["gluon"], total, call)
    return Case(f"grouped wgrad {experts}x{rows}x{n}x{k}", 2.0 * rows * n * k, "TFLOP/s", contenders)


def _along_tokens(t: Tensor, recipe: str) -> RowQ | TokQ:
    return quantize_tokens(t) if recipe == "v3" else transpose_shift(quantize_rows(t))


def _gradients(
    op: str, recipe: str, backends: list[str], total: Tensor, call: Callable[..., Tensor]
) -> list[Contender]:
    """Writing the product, and by the first backend adding it to ``total``."""
    expected = using(op, "reference", call)
    contenders = [
        Contender(f"{backend} {recipe}", using(op, backend, call), Answer(expected, FP32_GATE))
        for backend in backends
    ]
    add = using(op, backends[0], lambda: call(total, True))
    once = using(op, backends[0], lambda: call(torch.zeros_like(total), True))
    return [*contenders, Contender(f"{backends[0]} {recipe} +=", add, Answer(expected, FP32_GATE, once))]


def _groups(rows: int, experts: int) -> Groups:
    """Choices as uneven as a trained router's: sizes within about 30 % of one another."""
    weight = 1 + 0.6 * (torch.rand(experts, device="cuda") - 0.5)
    return route_tables(torch.multinomial(weight, rows, replacement=True).int()[:, None], experts)


def casts(rows: int, columns: int) -> list[Case]:
    """Casts, in bytes that must move, beside a copy of as many; their bytes equal the reference's."""
    x = _randn(rows, columns)
    a = quantize_rows(x)
    w = torch.randn(rows, columns, device="cuda")
    elements = rows * columns
    work: list[tuple[str, float, Callable[[], RowQ | TokQ | object]]] = [
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
        value = lambda c=call: dequantize(c())  # noqa: E731
        answer = Answer(using("quantize", "reference", value), EXACT, using("quantize", "triton", value))
        contenders = [copy, Contender("triton", call, answer)]
        cases.append(Case(f"{name} {rows}x{columns}", elements * bytes_each, "GB/s", contenders))
    return cases


def attention_cases(batch: int, length: int, heads: int) -> list[Case]:
    """The attention core with V3's head sizes, forward and backward: whole rows, and packed documents."""
    return [_attention(batch, length, heads, documents) for documents in (1, 8)]


def _attention(batch: int, length: int, heads: int, documents: int) -> Case:
    parts = [_randn(batch, length, heads, d) for d in (128, 64, 256)] + [_randn(batch, length, 64)]
    q, q_rope, kv, k_rope = (t.requires_grad_() for t in parts)
    up = _randn(batch, length, heads, 128)
    ids = torch.randint(0, documents, (batch, length), device="cuda").sort(1).values
    found = find_documents(ids) if documents > 1 else None

    def run() -> tuple[Tensor, ...]:
        out = latent_attention(q, q_rope, kv, k_rope, 192**-0.5, found)
        return out, *torch.autograd.grad(out, (q, q_rope, kv, k_rope), up)

    def joined() -> Tensor:
        return torch.cat([t.detach().flatten() for t in run()])

    # The library takes one key a head: it is given the copies that it needs, and a written mask.
    library = partial(using, "latent_attention", "reference")
    kernel = partial(using, "latent_attention", "triton")
    pairs = sum(int((ids == n).sum(1).square().sum()) for n in range(documents)) / 2
    contenders = [
        Contender("sdpa, cuDNN", library(run)),
        Contender("triton", kernel(run), Answer(library(joined), ATTENTION_GATE, kernel(joined))),
    ]
    name = f"attention {batch}x{length}x{heads}, {documents} documents a row"
    return Case(name, 2.0 * pairs * heads * (192 + 128) * 3.5, "TFLOP/s", contenders)


def causal_core(batch: int, length: int, heads: int) -> Case:
    """cuDNN's core alone on whole rows, forward: what document masks are measured against."""
    q, k = _randn(batch, heads, length, 192), _randn(batch, heads, length, 192)
    v = _randn(batch, heads, length, 128)
    call = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
    flops = batch * heads * length * length * (192 + 128)
    return Case(f"causal core {batch}x{length}x{heads}", float(flops), "TFLOP/s", [Contender("sdpa", call)])
