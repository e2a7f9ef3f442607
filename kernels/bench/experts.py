"""Products of the experts: forward, input gradient, weight gradient."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..grouped_gemm import grouped_gemm, grouped_wgrad
from ..permute import permute
from ..quantize import dequantize, quantize_rows, quantize_weight
from ..types import Groups, RowQ, WeightQ
from . import peers
from .case import BF16_GATE, Answer, Case, Contender, ours, randn, uneven_groups, using
from .dense import along_tokens, gradients


def fprop(experts: int, rows: int, n: int, k: int) -> Case:
    """Forward of all experts."""
    return _forward(experts, rows, n, k, transposed=False)


def dgrad(experts: int, rows: int, n: int, k: int) -> Case:
    """Input gradient of all experts, each of ``n`` outputs."""
    return _forward(experts, rows, n, k, transposed=True)


def _forward(experts: int, rows: int, n: int, k: int, transposed: bool) -> Case:
    groups = uneven_groups(rows, experts)
    x, w = permute(randn(rows, n if transposed else k), groups), randn(experts, n, k)
    a, b = quantize_rows(x), quantize_weight(w)
    end = int(groups.offsets[-1])
    plain = w if transposed else w.transpose(1, 2)
    # One expert's weight after the other: the whole stack in float32 is too large.
    expected = partial(_one_by_one, a, b, groups, transposed)

    def contender(backend: str) -> Contender:
        call = using("grouped_gemm", backend, partial(grouped_gemm, a, b, groups, transposed))
        # Rows that belong to no expert are not defined.
        return ours(backend, call, Answer(expected, BF16_GATE, lambda: call()[:end]))

    rows_peer = [] if transposed else [Contender(peers.GROUPED_ROWS, peers.grouped_rows(x, w, groups))]
    contenders = [
        Contender(peers.GROUPED_BF16, peers.grouped_bf16(x, plain, groups)),
        *rows_peer,
        contender("gluon"),
        contender("triton"),
    ]
    out = k if transposed else n
    moved = float(rows * x.shape[1] + experts * n * k + 2 * rows * out)
    return Case("TFLOP/s", 2.0 * rows * n * k, moved, contenders)


def weight_gradient(experts: int, rows: int, n: int, k: int) -> Case:
    """Weight gradient of all experts, both recipes."""
    groups = uneven_groups(rows, experts)
    g, x = permute(randn(rows, n), groups), permute(randn(rows, k), groups)
    total = torch.zeros(experts, n, k)
    contenders = [Contender(peers.GROUPED_BF16, peers.grouped_bf16(g.t(), x, groups))]
    for recipe in ("v3", "shift"):
        call = partial(grouped_wgrad, along_tokens(g, recipe), along_tokens(x, recipe), groups)
        contenders += gradients("grouped_wgrad", recipe, ["gluon"], total, call)
    moved = float(rows * (n + k) + 4 * experts * n * k)
    return Case("TFLOP/s", 2.0 * rows * n * k, moved, contenders)


def _one_by_one(a: RowQ, b: WeightQ, groups: Groups, transposed: bool) -> Tensor:
    rows, bounds = dequantize(a), groups.offsets.tolist()
    products = []
    for expert, (start, end) in enumerate(pairwise(bounds)):
        w = dequantize(WeightQ(b.data[expert], b.data_t[expert], b.scale[expert]))
        products.append(rows[start:end] @ (w if transposed else w.t()))
    return torch.cat(products)
