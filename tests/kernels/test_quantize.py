"""Casts to FP8: the reference against arithmetic done another way, and its behaviour at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from penstock.kernels.numeric import relative_error, rounding_bias, same_bits
from penstock.kernels.quantize import (
    dequantize,
    quantize_both,
    quantize_rows,
    quantize_tokens,
    quantize_weight,
    reference,
    transpose_shift,
)
from penstock.kernels.types import BLOCK, FP8

E4M3 = torch.arange(256, dtype=torch.uint8).view(FP8).double()
E4M3 = E4M3[E4M3.isfinite()].unique()
EITHER_SCALE = pytest.mark.parametrize("power_of_two", [True, False])


@given(st.floats(min_value=0, max_value=3.4028234663852886e38, width=32))
@settings(max_examples=300, deadline=None)
def test_the_scale_is_the_smallest_power_of_two_that_fits(amax: float) -> None:
    scale = float(reference.power_of_two_scale(torch.tensor(amax)))
    assert math.frexp(scale)[0] == 0.5, "a power of two"
    assert amax / scale <= 448
    assert scale == 2.0**-126 or amax / (scale / 2) > 448
    assert (1 / torch.tensor(scale)) * scale == 1.0


def test_the_scale_turns_at_448_exactly() -> None:
    at = torch.tensor([448.0, 448.0, 449.0, 224.0, 1.75, 0.0])
    at[1] = torch.nextafter(at[0], at[2])
    assert reference.power_of_two_scale(at).tolist() == [1.0, 2.0, 2.0, 0.5, 2.0**-8, 2.0**-126]


@given(st.floats(min_value=0, max_value=3.4028234663852886e38, width=32))
@settings(max_examples=300, deadline=None)
def test_an_exact_scale_makes_448_of_the_largest(amax: float) -> None:
    q = quantize_rows(torch.tensor([[amax, -amax, amax / 2]]), power_of_two=False)
    assert float(q.scale[0, 0]) == max(float(torch.tensor(amax / 448)), 2.0**-126)
    if amax >= 448 * 2.0**-126:
        assert q.data.float().tolist() == [[448, -448, 224]]


def nearest_even(x: Tensor) -> Tensor:
    """The nearest of all finite E4M3 numbers; of two, that with an even last bit."""
    distance = (x.double()[..., None] - E4M3).abs()
    odd = E4M3.to(FP8).view(torch.uint8) & 1
    nearest = distance == distance.amin(-1, keepdim=True)
    return E4M3[(nearest * (2 - odd)).argmax(-1)]


@EITHER_SCALE
def test_bytes_are_the_nearest_e4m3_numbers(power_of_two: bool) -> None:
    x = torch.randn(64, 256)
    x[:, 5] = x.abs().amax(1) * 17 / 256  # halfway between two, where the scale of a row is exact
    q = quantize_rows(x, power_of_two)
    scaled = x / q.scale.t().repeat_interleave(BLOCK, 1)
    assert torch.equal(q.data.double(), nearest_even(scaled))
    assert abs(rounding_bias(dequantize(q), x)) < 5


@pytest.mark.parametrize(
    ("power_of_two", "of_rows", "of_blocks"), [(True, 0.0265, 0.0265), (False, 0.0257, 0.0264)]
)
def test_the_error_is_that_of_the_format(power_of_two: bool, of_rows: float, of_blocks: float) -> None:
    x = torch.randn(512, 1024)
    rows, weight = quantize_rows(x, power_of_two), quantize_weight(x, None, power_of_two)
    assert relative_error(dequantize(rows), x) == pytest.approx(of_rows, abs=1e-4)
    assert relative_error(dequantize(weight), x) == pytest.approx(of_blocks, abs=1e-4)
    tiny = quantize_rows(x * 2.0**-100, power_of_two)  # a floor under amax would lose everything here
    assert same_bits(tiny.data, rows.data)


@EITHER_SCALE
def test_small_tiles_have_the_smallest_normal_scale(power_of_two: bool) -> None:
    x = torch.tensor([[0.0], [1.0], [448.0], [2.0**-10], [-(2.0**-20)]]) * 2.0**-126
    q = quantize_rows(x, power_of_two)
    assert (q.scale == 2.0**-126).all()
    assert q.data[:, 0].float().tolist() == [0, 1, 448, 0, 0]
    assert dequantize(q)[1, 0] == x[1, 0]


@EITHER_SCALE
def test_a_nan_or_infinity_spoils_itself_and_nothing_else(power_of_two: bool) -> None:
    x = torch.randn(4, 256)
    x[1, 0] = x[2, 255] = (
        5.0  # the largest of their tiles, so that the scales do not depend on what is spoiled
    )
    spoiled = x.clone()
    spoiled[1, 3], spoiled[1, 4], spoiled[1, 7], spoiled[2, 200] = math.nan, -math.nan, -math.inf, math.inf
    q, clean = quantize_rows(spoiled, power_of_two), quantize_rows(x, power_of_two)
    bad = ~spoiled.isfinite()
    assert (q.data.view(torch.uint8)[bad] == 0x7F).all()
    assert same_bits(q.data.view(torch.uint8)[~bad], clean.data.view(torch.uint8)[~bad])
    assert same_bits(q.scale, clean.scale)


@pytest.mark.parametrize(("power_of_two", "byte"), [(True, 0x78), (False, 0x7E)])
def test_nothing_saturates_and_signs_stay(power_of_two: bool, byte: int) -> None:
    largest = torch.finfo(torch.float32).max
    x = torch.tensor([[largest, -largest, 0.0, -0.0] + [1e-45] * 124])
    q = quantize_rows(x, power_of_two)
    assert q.data.view(torch.uint8)[0, :4].tolist() == [byte, byte | 0x80, 0x00, 0x80]


@EITHER_SCALE
def test_layouts_and_padding(power_of_two: bool) -> None:
    x = torch.randn(130, 300)
    rows, tokens = quantize_rows(x, power_of_two), quantize_tokens(x, power_of_two)
    weight = quantize_weight(x, None, power_of_two)
    assert rows.data.shape == (130, 300)
    assert rows.scale.shape == (3, 132)
    assert (rows.scale[:, 130:] == 2.0**-126).all(), "rows that are not there outrank none"
    assert tokens.data.shape == (300, 256)
    assert tokens.scale.shape == (2, 300)
    assert not tokens.data[:, 130:].float().any()
    for q, alone in zip(quantize_both(x, power_of_two), (rows, tokens), strict=True):
        assert same_bits(q.data, alone.data)
        assert same_bits(q.scale, alone.scale)
    assert weight.data_t.shape == (300, 130)
    assert torch.equal(weight.data.float().t(), weight.data_t.float())
    assert weight.scale.shape == (2, 3)
    stack = quantize_weight(torch.stack([x, 2 * x]), None, power_of_two)
    assert same_bits(stack.data[0], weight.data)
    assert torch.equal(stack.scale[1], 2 * weight.scale)


@pytest.mark.parametrize("spread", [0, 3])
def test_transpose_shift_keeps_values(spread: int) -> None:
    x = torch.randn(256, 200) * torch.exp2(torch.randint(0, spread + 1, (256, 1)).float())
    a = quantize_rows(x)
    t = transpose_shift(a)
    assert t.data.shape == (200, 256)
    before, after = dequantize(a).t(), dequantize(t)
    block = t.scale.repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)
    normal = before.abs() >= block * 2.0**-6  # the smallest normal E4M3 number
    assert torch.equal(after[normal], before[normal])
    assert ((after - before).abs() <= block * 2.0**-10).all(), "half of the smallest subnormal"


def test_transpose_shift_gathers_rows() -> None:
    a = quantize_rows(torch.randn(40, 128))
    rows = torch.tensor([3, -1, 39, 3] + [-1] * 200)
    t = dequantize(transpose_shift(a, rows))
    assert t.shape == (128, 256)
    assert relative_error(t[:, [0, 2, 3]], dequantize(a)[[3, 39, 3]].t()) < 1e-2
    assert not t[:, 1].any()
    assert not t[:, 128:].any()


def test_one_scale_for_both_beats_rounding_twice() -> None:
    """The reason for the shift: requantising along tokens rounds a second time."""
    g, x = torch.randn(1024, 256), torch.randn(1024, 256)
    exact = g.t() @ x
    shift = dequantize(transpose_shift(quantize_rows(g))) @ dequantize(transpose_shift(quantize_rows(x))).t()
    v3 = dequantize(quantize_tokens(g)) @ dequantize(quantize_tokens(x)).t()
    twice = [dequantize(quantize_tokens(dequantize(quantize_rows(t * 1.37)) / 1.37)) for t in (g, x)]
    assert relative_error(shift, exact) == pytest.approx(0.0376, abs=1e-3)
    assert relative_error(v3, exact) == pytest.approx(0.0376, abs=1e-3)
    assert relative_error(twice[0] @ twice[1].t(), exact) > 0.045


def test_same_bits_tells_zeros_apart_and_takes_scalars() -> None:
    one, nan = torch.tensor(1.0), torch.tensor(float("nan"))
    assert same_bits(one, one.clone())
    assert same_bits(nan, nan.clone())
    assert not same_bits(torch.tensor(0.0), torch.tensor(-0.0))
    assert not same_bits(one, one.double())
