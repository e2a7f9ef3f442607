"""Gradients that come quantised: taken as they are, and refused where they cannot be added."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from penstock.kernels.feed_forward import expert_feed_forward
from penstock.kernels.gemm import joint_linear, linear
from penstock.kernels.numeric import same_bits
from penstock.kernels.permute.op import gather_sum
from penstock.kernels.quantize import quantize_rows, transpose_shift
from penstock.kernels.registry import RECIPE_ENVIRONMENT, RECIPES
from penstock.kernels.route import route_tables
from penstock.kernels.states import Spread, States, spread_of

UP = torch.randn(6, 48)


@pytest.fixture(autouse=True)
def _recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RECIPE_ENVIRONMENT, "shift")


def leaves() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(n, 32, generator=generator).requires_grad_() for n in (6, 48))


def test_a_quantised_gradient_is_worth_the_one_it_was_made_of() -> None:
    results = []
    for quantised in (True, False):
        x, w = leaves()
        y = linear(States(x), w, "fp8")
        assert y.gradient is not None
        if quantised:
            torch.autograd.backward(y.gradient.parts, quantize_rows(UP).parts)
        else:
            y.values.backward(UP)
        results.append((x.grad, w.grad))
    for a, b in zip(*results, strict=True):
        assert same_bits(a, b)


def test_one_that_comes_in_both_ways_is_refused() -> None:
    y = linear(States(leaves()[0]), leaves()[1], "fp8")
    assert y.gradient is not None
    with pytest.raises(RuntimeError, match="only one op may read"):
        torch.autograd.backward((y.values, *y.gradient.parts), (UP, *quantize_rows(UP).parts))


def test_a_product_that_nobody_reads_has_no_gradient() -> None:
    x, w = leaves()
    other = torch.randn(20, 32).requires_grad_()
    first, _ = joint_linear(States(x), (w, other), "fp8")
    first.values.backward(UP)
    expected = leaves()
    linear(expected[0], expected[1], "fp8").backward(UP)
    assert same_bits(x.grad, expected[0].grad)
    assert not other.grad.any()


def gradients_of_experts(layers: int) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """What so many layers that read the same states hand back: in parts, summed, and where rows stand."""
    x, gate_up, down = (
        torch.randn(*shape).requires_grad_() for shape in ((6, 128), (4, 256, 128), (4, 128, 128))
    )
    valid = torch.arange(6) != 5
    groups, p = route_tables(torch.arange(12).view(6, 2).int() % 4, 4, valid), torch.rand(6, 2)
    spread = Spread(*(part.requires_grad_() for part in spread_of(x.detach(), groups.n_rows, 2)))
    ends, plain = [], []
    for _ in range(layers):
        y = expert_feed_forward(States(x, spread=spread), p, gate_up, down, groups, "fp8")
        assert y.gradient is not None
        ends += y.gradient.parts
        other = expert_feed_forward(States(x), p, gate_up, down, groups, "fp8")
        assert other.gradient is not None
        plain += other.gradient.parts
    sent = [*quantize_rows(torch.randn(6, 128)).parts] * layers
    (expected,) = torch.autograd.grad(plain, x, sent)
    found = torch.autograd.grad(ends, (x, *spread.parts), sent, allow_unused=True)
    return found, expected, groups.token_pos


def test_experts_hand_back_their_rows() -> None:
    (dx, rows, places), expected, token_pos = gradients_of_experts(1)
    assert dx is None
    assert torch.equal(places.view(torch.int32), token_pos)
    assert same_bits(gather_sum(rows, None, token_pos), expected)


def test_rows_of_two_layers_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="not implemented for 'Float8"):
        gradients_of_experts(2)


@pytest.mark.parametrize("recipe", RECIPES)
def test_who_takes_gradients_quantised(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RECIPE_ENVIRONMENT, recipe)
    x, w = leaves()
    assert (linear(States(x), w, "fp8").gradient is None) == (recipe == "v3")
    assert linear(States(x), w, "fp32").gradient is None
    with torch.no_grad():
        assert linear(States(x), w, "fp8").gradient is None


def test_a_sum_that_a_norm_was_to_make_is_made_for_other_readers() -> None:
    x, gate_up, down = (
        torch.randn(*shape).requires_grad_() for shape in ((6, 128), (4, 256, 128), (4, 128, 128))
    )
    groups, p = route_tables(torch.arange(12).view(6, 2).int() % 4, 4), torch.rand(6, 2)
    results = []
    for given in (States(x), x):
        y = expert_feed_forward(given, p, gate_up, down, groups, "fp8")
        assert not isinstance(y, States) or y.combination is not None
        out = linear(y, down[0], "bf16")
        values = out.values if isinstance(out, States) else out
        results.append((values, torch.autograd.grad(values.cos().sum(), (x, gate_up, down))))
    (found, found_grads), (expected, expected_grads) = results
    assert same_bits(found, expected)
    assert all(map(same_bits, found_grads, expected_grads))


def test_rows_that_cannot_be_transposed_later_are_refused() -> None:
    x, w = leaves()
    with pytest.raises(ValueError, match=r"x\.rows: scales must be powers of two"):
        linear(States(x, quantize_rows(x.detach(), power_of_two=False)), w, "fp8")
    with pytest.raises(ValueError, match="a: scales must be powers of two"):
        transpose_shift(quantize_rows(x.detach(), power_of_two=False))
