"""Products of dense layers: forward, input gradient, and weight gradients, alone or a layer's at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..gemm import gemm, gemm_torch, wgrad, wgrads
from ..quantize import dequantize, quantize_rows, quantize_tokens, quantize_weight, transpose_shift
from ..types import RowQ, TokQ
from . import peers
from .case import BF16_GATE, FP32_GATE, Answer, Case, Contender, ours, randn, using


def fprop(tokens: int, n: int, k: int) -> Case:
    """Forward of one layer."""
    return _forward(tokens, n, k, transposed=False)


def dgrad(tokens: int, n: int, k: int) -> Case:
    """Input gradient of one layer of ``n`` outputs: the product of [tokens, n] by [n, k]."""
    return _forward(tokens, n, k, transposed=True)


def _forward(tokens: int, n: int, k: int, transposed: bool) -> Case:
    x, w = randn(tokens, n if transposed else k), randn(n, k)
    a, b = quantize_rows(x), quantize_weight(w)
    plain = w if transposed else w.t()
    data, scale = (b.data_t, b.scale.t()) if transposed else (b.data, b.scale)
    padded = gemm_torch.padded(scale)  # beforehand, as a user of the library would keep them

    def expected() -> Tensor:
        return dequantize(a) @ (dequantize(b) if transposed else dequantize(b).t())

    answer = Answer(expected, BF16_GATE)
    call = partial(gemm, a, b, transposed)
    contenders = [
        Contender(peers.BLOCK, lambda: gemm_torch.scaled_mm(a.data, a.scale, data, padded), answer),
        Contender(peers.BF16, lambda: x @ plain),
        Contender("cuBLAS tensor-wise fp8", peers.tensor_wise(a.data, data)),
        *peers.deep_gemm(a, data, scale, answer),
        ours("gluon", using("gemm", "gluon", call), answer),
        ours("triton", using("gemm", "triton", call), answer),
    ]
    moved = float(tokens * (k + n) + n * k + tokens * (k if transposed else n))
    return Case("TFLOP/s", 2.0 * tokens * n * k, moved, contenders)


def weight_gradient(tokens: int, n: int, k: int) -> Case:
    """Weight gradient of one layer, both recipes."""
    g, x = randn(tokens, n), randn(tokens, k)
    rows_g, rows_x, total = quantize_tokens(g), quantize_tokens(x), torch.zeros(n, k)
    block = Answer(lambda: dequantize(rows_g) @ dequantize(rows_x).t(), FP32_GATE)
    contenders = [
        Contender(peers.BLOCK, peers.block_wgrad(rows_g, rows_x), block),
        Contender(peers.BF16, lambda: g.t() @ x),
    ]
    for recipe, backends in (("v3", ["gluon"]), ("shift", ["gluon", "triton"])):
        call = partial(wgrad, along_tokens(g, recipe), along_tokens(x, recipe))
        contenders += gradients("wgrad", recipe, backends, total, call)
    return Case("TFLOP/s", 2.0 * tokens * n * k, float(tokens * (n + k) + 4 * n * k), contenders)


def layer_gradients(tokens: int, sizes: list[tuple[int, int]]) -> Case:
    """All weight gradients of a layer in one launch, beside one product after the other."""
    pairs = [(randn(tokens, n), randn(tokens, k)) for n, k in sizes]
    blocks = [peers.block_wgrad(quantize_tokens(g), quantize_tokens(x)) for g, x in pairs]
    contenders = [
        Contender(peers.BF16, lambda: [g.t() @ x for g, x in pairs]),
        Contender(peers.BLOCK, lambda: [product() for product in blocks]),
    ]
    for recipe in ("v3", "shift"):
        operands = [(along_tokens(g, recipe), along_tokens(x, recipe)) for g, x in pairs]
        contenders += _lists(recipe, operands, [torch.zeros(size) for size in sizes])
    work = sum(n * k for n, k in sizes)
    moved = sum(tokens * (n + k) + 4 * n * k for n, k in sizes)
    return Case("TFLOP/s", 2.0 * tokens * work, float(moved), contenders)


def _lists(
    recipe: str, operands: list[tuple[RowQ | TokQ, RowQ | TokQ]], outs: list[Tensor]
) -> list[Contender]:
    listed = [(g, x, out) for (g, x), out in zip(operands, outs, strict=True)]

    def value(accumulate: bool) -> Tensor:
        for out in outs:
            out.fill_(0.0 if accumulate else float("nan"))
        wgrads(listed, accumulate)
        return torch.cat([out.flatten() for out in outs])

    expected = using("wgrad", "reference", partial(value, False))
    found = []
    for name, add in ((f"gluon {recipe}", False), (f"gluon {recipe} +=", True)):
        given = using("wgrad", "gluon", partial(value, add))
        answer = Answer(expected, FP32_GATE, given)
        found.append(ours(name, using("wgrad", "gluon", partial(wgrads, listed, add)), answer))
    return found


def along_tokens(t: Tensor, recipe: str) -> RowQ | TokQ:
    """The operand of a weight gradient."""
    return quantize_tokens(t) if recipe == "v3" else transpose_shift(quantize_rows(t))


def gradients(
    op: str, recipe: str, backends: list[str], total: Tensor, call: Callable[..., Tensor]
) -> list[Contender]:
    """Writing the product, and by the first backend adding it to ``total``."""
    expected = using(op, "reference", call)
    found = [
        ours(f"{backend} {recipe}", using(op, backend, call), Answer(expected, FP32_GATE))
        for backend in backends
    ]
    add = using(op, backends[0], lambda: call(total, True))
    once = using(op, backends[0], lambda: call(torch.zeros_like(total), True))
    return [*found, ours(f"{backends[0]} {recipe} +=", add, Answer(expected, FP32_GATE, once))]
