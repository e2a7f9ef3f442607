"""Casts to FP8: the reference against arithmetic done another way, and its behaviour at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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

FP8 = torch.float8_e4m3fn
E4M3 = torch.arange(256, dtype=torch.uint8).view(FP8).double()
E4M3 = E4M3[E4M3.isfinite()].unique()


@given(st.floats(min_value=0, max_value=3.4028234663852886e38, width=32))
@settings(max_examples=300, deadline=None)
def test_the_scale_is_the_smallest_power_of_two_that_fits(amax: float) -> None:
    scale = float(reference.power_of_two_scale(torch.tensor(amax)))
    assert math.frexp(scale)[0] == 0.5, "a power of two"
    assert amax / scale <= 448
    assert scale == 2.0**-126 or amax / (scale / 2) > 448
    assert float(reference.reciprocal(torch.tensor(scale))) * scale == 1.0


def test_the_scale_turns_at_448_exactly() -> None:
    at = torch.tensor([448.0, 448.0, 449.0, 224.0, 1.75, 0.0])
    at[1] = torch.nextafter(at[0], at[2])
    assert reference.power_of_two_scale(at).tolist() == [1.0, 2.0, 2.0, 0.5, 2.0**-8, 2.0**-126]


def test_bytes_are_the_nearest_e4m3_numbers() -> None:
    x = torch.randn(64, 256)
    q = quantize_rows(x)
    scaled = x.double() / dequantize(q).double().div(q.data.double()).nan_to_num(1.0)
    nearest = (scaled[..., None] - E4M3).abs().amin(-1)
    assert torch.equal((scaled - q.data.double()).abs(), nearest)
    assert abs(rounding_bias(dequantize(q), x)) < 5


def test_the_error_is_that_of_the_format() -> None:
    x = torch.randn(512, 1024)
    assert relative_error(dequantize(quantize_rows(x)), x) == pytest.approx(0.0266, abs=5e-4)
    assert relative_error(dequantize(quantize_weight(x)), x) == pytest.approx(0.0266, abs=5e-4)
    tiny = quantize_rows(x * 2.0**-100)  # a floor under amax would lose everything here
    assert same_bits(tiny.data, quantize_rows(x).data)


def test_a_nan_or_infinity_spoils_itself_and_nothing_else() -> None:
    x = torch.randn(4, 256)
    x[1, 0] = x[2, 255] = (
        5.0  # the largest of their tiles, so that the scales do not depend on what is spoiled
    )
    spoiled = x.clone()
    spoiled[1, 3], spoiled[1, 4], spoiled[1, 7], spoiled[2, 200] = math.nan, -math.nan, -math.inf, math.inf
    q, clean = quantize_rows(spoiled), quantize_rows(x)
    bad = ~spoiled.isfinite()
    assert (q.data.view(torch.uint8)[bad] == 0x7F).all()
    assert same_bits(q.data.view(torch.uint8)[~bad], clean.data.view(torch.uint8)[~bad])
    assert same_bits(q.scale, clean.scale)


def test_nothing_saturates_and_signs_stay() -> None:
    largest = torch.finfo(torch.float32).max
    x = torch.tensor([[largest, -largest, 0.0, -0.0] + [1e-45] * 124])
    q = quantize_rows(x)
    assert q.data.view(torch.uint8)[0, :4].tolist() == [0x78, 0xF8, 0x00, 0x80]


def test_layouts_and_padding() -> None:
    x = torch.randn(130, 300)
    rows, tokens, weight = quantize_rows(x), quantize_tokens(x), quantize_weight(x)
    assert rows.data.shape == (130, 300)
    assert rows.scale.shape == (3, 132)
    assert (rows.scale[:, 130:] == 2.0**-126).all(), "rows that are not there outrank none"
    assert tokens.data.shape == (300, 256)
    assert tokens.scale.shape == (2, 300)
    assert not tokens.data[:, 130:].float().any()
    for q, alone in zip(quantize_both(x), (rows, tokens), strict=True):
        assert same_bits(q.data, alone.data)
        assert same_bits(q.scale, alone.scale)
    assert weight.data_t.shape == (300, 130)
    assert torch.equal(weight.data.float().t(), weight.data_t.float())
    assert weight.scale.shape == (2, 3)
    stack = quantize_weight(torch.stack([x, 2 * x]))
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
