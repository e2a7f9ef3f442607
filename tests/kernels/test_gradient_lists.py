"""Weight gradients made together, on a CPU: what arrives, in what order, and what stays behind."""

from __future__ import annotations

import weakref
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from penstock.kernels import registry
from penstock.kernels.cross_entropy import linear_cross_entropy
from penstock.kernels.embedding import embedding
from penstock.kernels.gemm import (
    accumulate_in_place,
    discard_gradients,
    discarded_gradients,
    linear,
    pending,
    wgrad,
    wgrads,
    zero_discarded_gradients,
)
from penstock.kernels.numeric import relative_error, same_bits
from penstock.kernels.quantize import dequantize, quantize_rows, quantize_tokens, transpose_shift
from penstock.kernels.types import RowQ


def cast(tokens: int, features: int, recipe: str):
    x = torch.randn(tokens, features)
    return quantize_tokens(x) if recipe == "v3" else transpose_shift(quantize_rows(x))


@pytest.mark.parametrize("recipe", ["v3", "shift"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_a_list_is_each_of_its_products(recipe: str, accumulate: bool) -> None:
    sizes = [(128, 96, 130), (64, 64, 1), (30, 20, 256)] * 4
    products = [(cast(t, n, recipe), cast(t, k, recipe), torch.randn(n, k)) for n, k, t in sizes]
    alone = [wgrad(g, x, out.clone(), accumulate) for g, x, out in products]
    wgrads(products, accumulate)
    for (*_, out), expected in zip(products, alone, strict=True):
        assert same_bits(out, expected)
    wgrads([])


def test_a_list_that_cannot_be_computed_is_refused() -> None:
    v3, shift = ((cast(8, 32, r), cast(8, 16, r), torch.zeros(32, 16)) for r in ("v3", "shift"))
    with pytest.raises(TypeError, match=r"gradients\[1\]: expected RowQ, got TokQ"):
        wgrads([v3, shift])
    with pytest.raises(ValueError, match="memory of its own"):
        wgrads([v3, v3])
    with pytest.raises(ValueError, match="out"):
        wgrads([(v3[0], v3[1], torch.zeros(16, 32))])


def library_product(
    a: Tensor, b: Tensor, a_scale: Tensor, a_kind: object, b_scale: Tensor, b_kind: object, **named: object
) -> Tensor:
    """``scaled_mm`` as cuBLAS limits it, by the reference."""
    assert a_kind == b_kind == F.ScalingType.BlockWise1x128
    assert named == {"output_dtype": torch.float32}
    for data, scale in ((a, a_scale), (b.t(), b_scale)):
        rows, tokens = data.shape
        assert data.is_contiguous()
        assert rows % 16 == tokens % 128 == 0
        assert (scale.shape, scale.stride()) == ((rows, tokens // 128), (1, rows))
    return dequantize(RowQ(a, a_scale.t())) @ dequantize(RowQ(b.t(), b_scale.t())).t()


@pytest.mark.parametrize("accumulate", [False, True])
def test_the_library_makes_what_it_can(accumulate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a list, what has a size for it; the reference makes the rest."""
    sizes = [(128, 96, 130), (30, 20, 256), (64, 64, 512)]
    products = [(cast(t, n, "v3"), cast(t, k, "v3"), torch.randn(n, k)) for n, k, t in sizes]
    alone = [wgrad(g, x, out.clone(), accumulate) for g, x, out in products]
    made = Mock(side_effect=library_product)
    monkeypatch.setattr(F, "scaled_mm", made)
    monkeypatch.setattr(registry, "backend", lambda *_: "torch")
    wgrads(products, accumulate)
    assert [call.args[0].shape[0] for call in made.call_args_list] == [128, 64]
    for (*_, out), expected in zip(products, alone, strict=True):
        assert relative_error(out, expected) < 1e-6


def test_the_library_has_no_product_of_blocks_by_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    g, x, start = cast(128, 64, "shift"), cast(128, 32, "shift"), torch.ones(64, 32)
    monkeypatch.setattr(registry, "backend", lambda *_: "torch")
    with pytest.raises(ValueError, match=r"^wgrad: backend torch .* recipe v3, .* PENSTOCK_FP8_RECIPE=v3"):
        wgrad(g, x, start)
    assert start.eq(1).all()


class Tower(torch.nn.Module):
    """Eleven weights, the first used again by the last layer."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weights = torch.nn.ParameterList(torch.randn(96, 96) / 10 for _ in range(11))
        if in_place:
            accumulate_in_place(self.weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for w in (*self.weights, self.weights[0]):
            x = x + linear(x, w, "fp8")
        return x


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many gradients each launch made."""
    lengths = []

    def watched(gradients: list, accumulate: bool) -> None:
        lengths.append(len(gradients))
        wgrads(gradients, accumulate)

    monkeypatch.setattr(pending, "wgrads", watched)
    return lengths


@pytest.mark.parametrize("recipe", ["v3", "shift"])
def test_gradients_that_waited_equal_those_made_at_once(
    recipe: str, launched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_FP8_RECIPE", recipe)
    waiting, at_once = Tower(in_place=True), Tower(in_place=True)
    x = torch.randn(64, 96)
    for tower in (waiting, at_once):
        with monkeypatch.context() as patch:
            if tower is at_once:
                patch.setattr(pending, "make_later", lambda *_: False)
            for _ in range(3):
                tower(x).square().mean().backward()
    # The first pass makes the gradients and adds to that of the shared weight, the others add to all.
    assert launched == [8, 3, 1, 8, 4, 8, 4]
    assert not pending._passes
    for a, b in zip(waiting.weights, at_once.weights, strict=True):
        assert same_bits(a.grad, b.grad)


def test_additions_to_one_gradient_keep_their_order(launched: list[int]) -> None:
    w, twin = (torch.nn.Parameter(torch.ones(32, 32)) for _ in range(2))
    accumulate_in_place([w])
    x = torch.randn(16, 32)
    target = torch.randint(0, 32, (16,))
    for weight in (w, twin):
        weight.grad = torch.zeros(32, 32)
        y = linear(linear(x, weight, "fp8"), weight, "fp8")
        (linear_cross_entropy(y, weight, target, 16, "fp32") + y.sum()).backward()
    assert launched == [1, 1]
    assert relative_error(w.grad, twin.grad) < 1e-6


def test_what_waits_in_a_pass_that_fails_is_dropped(launched: list[int]) -> None:
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("on purpose")

    w = torch.nn.Parameter(torch.randn(32, 32))
    accumulate_in_place([w])
    w.grad = torch.zeros(32, 32)
    x = torch.randn(16, 32, requires_grad=True)
    with pytest.raises(RuntimeError, match="on purpose"):
        linear(Fails.apply(x), w, "fp8").sum().backward()
    assert launched == []
    assert not pending._passes
    assert not w.grad.any()
    linear(x, w, "fp8").sum().backward()
    assert launched == [1]
    assert w.grad.any()


def test_what_was_launched_is_released() -> None:
    w = torch.nn.Parameter(torch.randn(32, 32))
    accumulate_in_place([w])
    w.grad = torch.zeros(32, 32)
    alive = []

    def kept(gradients: list, accumulate: bool) -> None:
        alive.extend(weakref.ref(t.data) for g, x, _ in gradients for t in (g, x))
        wgrads(gradients, accumulate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pending, "wgrads", kept)
        linear(torch.randn(16, 32), w, "fp8").sum().backward()
    assert len(alive) == 2
    assert all(r() is None for r in alive)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_a_discarded_gradient_is_overwritten(precision: str) -> None:
    """By products, by an output layer and by an embedding, or made zero: by autograd, or where none comes."""
    table, w, head, unused = (torch.nn.Parameter(torch.randn(96, 64)) for _ in range(4))
    norm = torch.nn.Parameter(torch.ones(64))
    weights = [table, w, head, unused, norm]
    accumulate_in_place(weights[:-1])
    tokens, target = torch.randint(0, 96, (2, 50)), torch.randint(0, 96, (50,))

    def run() -> None:
        for row in tokens:
            x = embedding(row, table, torch.float32) * norm
            y = linear(x, w, precision)
            (linear_cross_entropy(x, head, target, 16, "fp32") + y.square().sum()).backward()

    run()
    expected = [p.grad.clone() for p in (table, w, head, norm)]
    unused.grad = torch.ones_like(unused)
    addresses = [p.grad.data_ptr() for p in weights]
    discard_gradients(weights)
    in_place = 2 if precision == "fp32" else 3  # in float32 a product is autograd's
    assert len(discarded_gradients(weights)) == in_place
    run()
    assert not discarded_gradients(weights)
    assert not unused.grad.any()
    assert [p.grad.data_ptr() for p in weights] == addresses
    for found, wanted in zip((table, w, head, norm), expected, strict=True):
        assert same_bits(found.grad, wanted)
    discard_gradients(weights)
    zero_discarded_gradients(weights)
    assert not discarded_gradients(weights)
    assert not any(p.grad.any() for p in weights)


def test_a_gradient_that_comes_in_two_ways_is_noticed() -> None:
    w = torch.nn.Parameter(torch.randn(32, 32))
    accumulate_in_place([w])
    linear(torch.randn(16, 32), w, "fp8").sum().backward()
    discard_gradients([w])
    (w * 2).sum().backward()
    with pytest.raises(RuntimeError, match=r"\(32, 32\).*told apart"):
        zero_discarded_gradients([w])
