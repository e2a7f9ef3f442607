"""Linear layers in FP8 and bfloat16, on a CPU: products of what bytes stand for, weights, their gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from penstock.kernels.adamw import adamw_step
from penstock.kernels.cross_entropy import linear_cross_entropy
from penstock.kernels.embedding import embedding
from penstock.kernels.feed_forward import expert_feed_forward, feed_forward
from penstock.kernels.gemm import (
    accumulate_in_place,
    gemm,
    joint_linear,
    linear,
    quantized_weight,
    refresh_copies,
    wgrad,
)
from penstock.kernels.gemm.weights import cast_weight
from penstock.kernels.grouped_gemm import grouped_linear
from penstock.kernels.norm import add_rms_norm, add_rms_norm_quantize
from penstock.kernels.numeric import relative_error, same_bits
from penstock.kernels.permute import permute
from penstock.kernels.quantize import (
    dequantize,
    quantize_rows,
    quantize_tokens,
    quantize_weight,
    transpose_shift,
)
from penstock.kernels.route import route_tables


def leaf(*shape: int) -> Tensor:
    return torch.randn(shape).requires_grad_()


@pytest.mark.parametrize("power", [True, False])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 128, 128), (37, 576, 300), (130, 64, 64)])
def test_fp8_products_are_those_of_what_the_bytes_stand_for(m: int, n: int, k: int, power: bool) -> None:
    x, w, g = torch.randn(m, k), torch.randn(n, k), torch.randn(m, n)
    x_q, w_q, g_q = quantize_rows(x, power), quantize_weight(w, power_of_two=power), quantize_rows(g, power)
    x_d, w_d, g_d = (dequantize(q).double() for q in (x_q, w_q, g_q))
    assert relative_error(gemm(x_q, w_q, out_dtype=torch.float32), x_d @ w_d.t()) < 1e-6
    assert relative_error(gemm(g_q, w_q, transposed=True), g_d @ w_d) < 2e-3
    for cast in (lambda t: quantize_tokens(t, power), lambda t: transpose_shift(quantize_rows(t))):
        expected = dequantize(cast(g)).double() @ dequantize(cast(x)).double().t()
        start = torch.randn(n, k)
        assert relative_error(wgrad(cast(g), cast(x)), expected) < 1e-6
        assert (
            relative_error(wgrad(cast(g), cast(x), start.clone(), accumulate=True), start + expected) < 1e-6
        )


@pytest.mark.parametrize("experts", [0, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recipe", ["v3", "shift"])
def test_fp8_layers_are_close_to_exact_ones(
    recipe: str, dtype: torch.dtype, experts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_FP8_RECIPE", recipe)
    groups = route_tables(torch.randint(0, 4, (100, 2)).int(), 5)
    rows, upstream = (permute(torch.randn(100, size), groups).to(dtype) for size in (256, 192))
    master = torch.randn(experts, 192, 256) if experts else torch.randn(192, 256)
    results = []
    for precision in ("fp32", "fp8"):
        x, w = rows.clone().requires_grad_(), master.clone().requires_grad_()
        y = grouped_linear(x, w, groups, precision) if experts else linear(x, w, precision)
        y.backward(upstream)
        assert y.dtype == x.grad.dtype == dtype
        assert w.grad.dtype == torch.float32
        results.append((y, x.grad, w.grad))
    for exact, found in zip(*results, strict=True):
        assert 0.03 < relative_error(found, exact) < 0.045  # two roundings to E4M3, each 0.0266


@pytest.mark.parametrize(("experts", "width"), [(False, 128), (True, 128), (False, 192)])
def test_fp8_feed_forward_errs_as_its_roundings_do(
    experts: bool, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recipe shift runs from one end to the other in FP8, and errs no more than casting anew every time."""
    idx = torch.stack([torch.randperm(6)[:2] for _ in range(300)]).int()
    groups = route_tables(idx, 6, torch.rand(300) > 0.1)
    stack = (6,) if experts else ()
    given = (
        torch.randn(300, 256),
        torch.rand(300, 2),
        torch.randn(*stack, 2 * width, 256) / 16,
        torch.randn(*stack, 256, width) / 11,
    )
    up = torch.randn(300, 256)

    def run(precision: str) -> list[Tensor]:
        x, p, gate_up, down = (t.clone().requires_grad_() for t in given)
        if experts:
            y = expert_feed_forward(x, p, gate_up, down, groups, precision)
        else:
            y = feed_forward(x, gate_up, down, precision) * p.sum(1, keepdim=True)
        y.backward(up)
        return [y, x.grad, p.grad, gate_up.grad, down.grad]

    exact = run("fp32")
    errors = {}
    for recipe in ("v3", "shift"):
        monkeypatch.setenv("PENSTOCK_FP8_RECIPE", recipe)
        errors[recipe] = [relative_error(a, b) for a, b in zip(run("fp8"), exact, strict=True)]
    for v3, shift in zip(errors["v3"], errors["shift"], strict=True):
        assert 0.06 < shift < 0.075
        assert shift == pytest.approx(v3, rel=0.03)


@pytest.mark.parametrize("precision", ["fp32", "fp8"])
def test_a_shared_layer_beside_the_experts_is_added(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_FP8_RECIPE", "shift")
    groups = route_tables(torch.randint(0, 6, (300, 2)).int(), 6, torch.rand(300) > 0.1)
    shapes = ((300, 128), (300, 2), (6, 256, 128), (6, 128, 128), (512, 128), (128, 256))
    given, up, results = [torch.randn(shape) / 8 for shape in shapes], torch.randn(300, 128), []
    for together in (True, False):
        x, p, gate_up, down, *shared = leaves = [t.clone().requires_grad_() for t in given]
        if together:
            y = expert_feed_forward(x, p, gate_up, down, groups, precision, tuple(shared))
        else:
            y = expert_feed_forward(x, p, gate_up, down, groups, precision)
            y = y + feed_forward(x, *shared, precision)
        y.backward(up)
        results.append((y, *(t.grad for t in leaves)))
    for a, b in zip(*results, strict=True):
        assert relative_error(a, b) < 1e-6


def test_a_weight_is_quantised_once_for_each_of_its_versions() -> None:
    w = torch.nn.Parameter(torch.randn(128, 128))
    first = quantized_weight(w)
    assert quantized_weight(w) is first
    before = first.data.clone()
    with torch.no_grad():
        w.add_(1.0)
    assert quantized_weight(w).data.data_ptr() == first.data.data_ptr(), "a CUDA graph reads it where it was"
    assert not same_bits(first.data, before)
    assert same_bits(first.data, quantize_weight(w.detach()).data)
    w.data = torch.randn(128, 128)
    assert same_bits(quantized_weight(w).data, quantize_weight(w.detach()).data)
    assert quantized_weight(copy.deepcopy(w)) is not quantized_weight(w)
    w.data = torch.randn(256, 128)
    assert quantized_weight(w).data.shape == (256, 128)


def test_a_norm_for_products_is_the_norm_and_its_cast() -> None:
    x, delta, w = torch.randn(2, 30, 200).bfloat16(), torch.randn(2, 30, 200).bfloat16(), torch.randn(200)
    total, states = add_rms_norm_quantize(x, delta, w, 1e-6)
    for a, b in zip((total, states.values), add_rms_norm(x, delta, w, 1e-6), strict=True):
        assert same_bits(a, b)
    expected = quantize_rows(states.values.flatten(0, 1))
    assert same_bits(states.rows.data, expected.data)
    assert same_bits(states.rows.scale, expected.scale)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
@pytest.mark.parametrize("recipe", ["v3", "shift"])
def test_a_joint_product_is_that_of_each_weight(
    precision: str, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_FP8_RECIPE", recipe)
    x, first, second = leaf(2, 40, 128), torch.randn(96, 128), torch.randn(64, 128)
    joint, alone = ([w.clone().requires_grad_() for w in (first, second)] for _ in range(2))
    accumulate_in_place([joint[1]])
    found = joint_linear(x, joint, precision)
    expected = tuple(linear(x, w, precision) for w in alone)
    ups = [torch.randn_like(y) for y in expected]
    torch.autograd.backward(found, ups)
    dx, x.grad = x.grad, None
    torch.autograd.backward(expected, ups)
    for a, b in zip((*found, dx), (*expected, x.grad), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(joint, alone, strict=True):
        assert relative_error(a.grad, b.grad) < 1e-6


def test_copies_of_a_changed_weight_are_refreshed_where_they_lie() -> None:
    w, other = torch.nn.Parameter(torch.randn(128, 128)), torch.nn.Parameter(torch.randn(4, 4))
    fp8, bf16 = quantized_weight(w), cast_weight(w, torch.bfloat16)
    adamw_step([w.data], [torch.randn(128, 128)], [torch.zeros(128, 128)], [torch.zeros(128, 128)], 0.1)
    with torch.no_grad():
        w.mul_(3.0)
    refresh_copies([w, other])
    assert same_bits(fp8.data, quantize_weight(w.detach()).data)
    assert same_bits(bf16, w.detach().bfloat16())


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_gradients_accumulate_in_place_when_asked_to(precision: str) -> None:
    x = torch.randn(64, 128)
    plain = torch.nn.Parameter(torch.randn(96, 128))
    fused = torch.nn.Parameter(plain.detach().clone())
    accumulate_in_place([fused])
    for _ in range(3):
        linear(x, plain, precision).square().sum().backward()
        linear(x, fused, precision).square().sum().backward()
    assert relative_error(fused.grad, plain.grad) < 1e-6
    address = fused.grad.data_ptr()
    linear(x, fused, precision).sum().backward()
    assert fused.grad.data_ptr() == address
    tokens = torch.randint(0, 96, (2, 32))
    for w in (plain, fused):
        w.grad = None
        for _ in range(2):
            embedding(tokens, w, torch.bfloat16).square().sum().backward()
    assert relative_error(fused.grad, plain.grad) < 1e-6
    target = torch.randint(0, 96, (64,))
    for w in (plain, fused):
        w.grad = None
        for _ in range(2):
            (linear_cross_entropy(x, w, target, 16, "fp32") * 0.3).backward()
    assert relative_error(fused.grad, plain.grad) < 1e-6
    with pytest.raises(ValueError, match=r"weights\[0\]"):
        accumulate_in_place([torch.randn(2)])


def test_bf16_layers_sum_weight_gradients_in_float32() -> None:
    x, w = torch.randn(4096, 8), leaf(8, 8)
    linear(x, w, "bf16").backward(torch.ones(4096, 8))
    expected = torch.ones(8, 4096, dtype=torch.float64) @ x.bfloat16().double()
    assert relative_error(w.grad, expected) < 1e-6
