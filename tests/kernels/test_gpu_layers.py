"""Layers on a GPU: whole chains of kernels against their references, recorded, and repeated."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from penstock.kernels import registry
from penstock.kernels.feed_forward import expert_feed_forward, feed_forward
from penstock.kernels.gemm import accumulate_in_place, linear, pending
from penstock.kernels.grouped_gemm import grouped_linear
from penstock.kernels.numeric import relative_error, same_bits
from penstock.kernels.permute import combine, permute
from penstock.kernels.route import route, route_tables
from penstock.kernels.swiglu import swiglu

pytestmark = pytest.mark.gpu


def randn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


@pytest.mark.parametrize("recipe", ["v3", "shift"])
def test_fp8_linear_agrees_with_its_reference(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_FP8_RECIPE", recipe)
    x, w, up = randn(300, 1280), randn(576, 1280, dtype=torch.float32), randn(300, 576)
    results = []
    for name in ("reference", None):
        given, weight = x.clone().requires_grad_(), w.clone().requires_grad_()
        if name is None:
            y = linear(given, weight, "fp8")
            y.backward(up)
        else:
            with registry.override("gemm", name), registry.override("wgrad", name):
                y = linear(given, weight, "fp8")
                y.backward(up)
        results.append((y, given.grad, weight.grad))
    for a, b in zip(*results, strict=True):
        assert relative_error(b, a) < 4e-3


@pytest.mark.parametrize("experts", [False, True])
def test_fp8_feed_forward_agrees_with_its_reference(experts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_FP8_RECIPE", "shift")
    groups = route_tables(torch.randint(1, 7, (300, 2), device="cuda").int(), 8)  # experts 0 and 7 are empty
    stack = (8,) if experts else ()
    given = (
        randn(300, 256),
        randn(300, 2, dtype=torch.float32).abs(),
        randn(*stack, 512, 256, dtype=torch.float32) / 16,
        randn(*stack, 256, 256, dtype=torch.float32) / 16,
        randn(768, 256, dtype=torch.float32) / 16,
        randn(256, 384, dtype=torch.float32) / 16,
    )
    up, results = randn(300, 256), []
    ops = ("gemm", "wgrad", "grouped_gemm", "grouped_wgrad", "swiglu_quantize", "permute")
    for backend in ("reference", None):
        x, p, gate_up, down, *shared = (t.clone().requires_grad_() for t in given)
        with ExitStack() as overrides:
            for op in ops if backend else ():
                overrides.enter_context(registry.override(op, backend))
            if experts:
                y = expert_feed_forward(x, p, gate_up, down, groups, "fp8", tuple(shared))
            else:
                y = feed_forward(x, gate_up, down, "fp8") * p.sum(1, keepdim=True).to(x.dtype)
                y = y + feed_forward(x, *shared, "fp8")
            y.backward(up)
        results.append((y, x.grad, p.grad, gate_up.grad, down.grad, *(w.grad for w in shared)))
    for a, b in zip(*results, strict=True):
        assert relative_error(b, a) < 8e-3


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_expert_layers_agree_with_their_reference(precision: str) -> None:
    groups = route_tables(torch.randint(1, 7, (300, 2), device="cuda").int(), 8)  # experts 0 and 7 are empty
    x, w = permute(randn(300, 256), groups), randn(8, 384, 256, dtype=torch.float32)
    up = permute(randn(300, 384), groups)
    results = []
    for backend in ("reference", None):
        given, weight = x.clone().requires_grad_(), w.clone().requires_grad_()
        with ExitStack() as stack:
            for op in ("grouped_mm", "grouped_gemm", "grouped_wgrad") if backend else ():
                stack.enter_context(registry.override(op, backend))
            y = grouped_linear(given, weight, groups, precision)
            y.backward(up)
        end = int(groups.offsets[-1])
        results.append((y[:end], given.grad[:end], weight.grad))
    for a, b in zip(*results, strict=True):
        assert relative_error(b, a) < 4e-3
    assert not results[1][2][[0, 7]].any()


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_gradients_accumulate_in_place(precision: str) -> None:
    x, w, up = randn(256, 256), randn(384, 256, dtype=torch.float32), randn(256, 384)
    plain, fused = w.clone().requires_grad_(), w.clone().requires_grad_()
    accumulate_in_place([fused])
    for _ in range(2):
        linear(x, plain, precision).backward(up)
        linear(x, fused, precision).backward(up)
    assert fused.grad.dtype == torch.float32
    assert relative_error(fused.grad, plain.grad) < 1e-6


@pytest.mark.parametrize("recipe", ["v3", "shift"])
def test_gradients_launched_together_can_be_recorded(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_FP8_RECIPE", recipe)
    x = randn(512, 640)
    weights = [randn(640, 640, dtype=torch.float32).requires_grad_() for _ in range(11)]
    accumulate_in_place(weights)

    def run() -> None:
        y = x
        for w in (*weights, weights[0]):
            y = y + linear(y, w, "fp8") / 32
        y.backward(x)

    def results() -> list[Tensor]:
        found = [w.grad.clone() for w in weights]
        for w in weights:
            w.grad.zero_()
        return found

    run()
    results()
    with monkeypatch.context() as patch:
        patch.setattr(pending, "make_later", lambda *_: False)
        run()
    at_once = results()
    run()
    together = results()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    graph.replay()
    for a, b, c in zip(at_once, together, results(), strict=True):
        assert a.any()
        assert relative_error(b, a) < 1e-6
        assert same_bits(b, c)


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_an_moe_layer_runs_without_waiting_for_the_host_and_repeats(precision: str) -> None:
    x, logits = randn(512, 256), randn(512, 16, dtype=torch.float32)
    bias = torch.zeros(16, device="cuda")
    up_weight, down_weight = (
        randn(16, 512, 256, dtype=torch.float32),
        randn(16, 256, 256, dtype=torch.float32),
    )

    def layer() -> tuple[Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in (x, logits, up_weight, down_weight)]
        idx, p, *_ = route(leaves[1], bias, 4, 2, 4, 2.5)
        groups = route_tables(idx, 16)
        h = swiglu(grouped_linear(permute(leaves[0], groups), leaves[2], groups, precision))
        out = combine(grouped_linear(h, leaves[3], groups, precision), p, groups)
        out.backward(torch.ones_like(out))
        return out, *(t.grad for t in leaves)

    first = layer()
    torch.cuda.set_sync_debug_mode("error")
    try:
        second = layer()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(first, second, strict=True):
        assert a.isfinite().all()
        assert same_bits(a, b)


@pytest.mark.parametrize("recipe", ["v3", "shift"])
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_no_tokens_are_few_tokens(precision: str, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_FP8_RECIPE", recipe)
    groups = route_tables(torch.empty(0, 2, dtype=torch.int32, device="cuda"), 8)
    shapes = ((8, 512, 256), (8, 256, 256), (768, 256), (256, 384))
    weights = [randn(*shape, dtype=torch.float32).requires_grad_() for shape in shapes]
    x, p = randn(0, 256).requires_grad_(), randn(0, 2, dtype=torch.float32).requires_grad_()
    y = expert_feed_forward(x, p, *weights[:2], groups, precision, (weights[2], weights[3]))
    assert y.shape == (0, 256)
    y.sum().backward()
    assert all(w.grad is not None and not w.grad.any() for w in weights)
