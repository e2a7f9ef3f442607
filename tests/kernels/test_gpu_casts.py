"""Casts and transposes on a GPU, equal to the reference bit for bit."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from penstock.kernels import quantize, registry
from penstock.kernels.numeric import relative_error, same_bits
from penstock.kernels.quantize import (
    dequantize,
    quantize_both,
    quantize_rows,
    quantize_weight,
    reference,
    transpose_shift,
)
from penstock.kernels.types import RowQ

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("needs_the_backend")]

BACKENDS = ["gluon", "triton"]


def hostile(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows of very different size, zeros, subnormals, a NaN and infinities."""
    x = torch.randn(rows, columns) * torch.exp2(torch.randint(-40, 40, (rows, 1)).float())
    x[rows // 2] = 0
    x[rows // 3] *= 1e-38
    x[0, 0], x[rows - 1, 1], x[rows - 1, columns - 1] = float("nan"), float("inf"), float("-inf")
    return x.to(dtype)


def assert_same(actual: object, expected: object) -> None:
    for found, wanted in zip(actual.parts, expected.parts, strict=True):
        assert same_bits(found.cpu(), wanted)


SHAPES = [(1, 128), (130, 300), (257, 576), (512, 1280), (64, 64)]


@pytest.mark.parametrize("power", [True, False])
@pytest.mark.parametrize("cast", ["quantize_rows", "quantize_tokens", "quantize_weight"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_a_cast_equals_the_reference_bit_for_bit(
    rows: int, columns: int, dtype: torch.dtype, cast: str, power: bool
) -> None:
    x, call = hostile(rows, columns, dtype), partial(getattr(quantize, cast), power_of_two=power)
    assert_same(call(x.cuda()), call(x))
    with registry.override("quantize", "reference"):
        assert_same(call(x.cuda()), call(x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("power", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("rows", "columns"), [*SHAPES, (0, 256), (300, 0), (1000, 1040), (3, 16), (8192, 2048)]
)
def test_both_casts_of_one_read_equal_the_reference_bit_for_bit(
    rows: int, columns: int, dtype: torch.dtype, power: bool, backend: str
) -> None:
    x = hostile(rows, columns, dtype) if rows * columns else torch.empty(rows, columns, dtype=dtype)
    if columns > 8:
        x[:, 7], x[rows // 4 :, 8] = torch.nan, torch.inf
    both = reference.quantize_both(x, power)
    shifted = torch.empty(x.numel() + 1, dtype=dtype, device="cuda")[1:].view_as(x).copy_(x)
    with registry.override("quantize_both", backend):
        for given in (x.cuda(), x.t().contiguous().cuda().t(), shifted):
            for actual, expected in zip(quantize_both(given, power), both, strict=True):
                assert_same(actual, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_stack_of_weights_is_cast_like_each(dtype: torch.dtype) -> None:
    stack = torch.stack([hostile(256, 320, dtype) for _ in range(3)])
    assert_same(quantize_weight(stack.cuda()), quantize_weight(stack))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_transpose_shift_equals_the_reference_bit_for_bit(rows: int, columns: int, backend: str) -> None:
    a = reference.quantize_rows(hostile(rows, columns, torch.float32))
    on_gpu = RowQ(a.data.cuda(), a.scale.cuda())
    picked = torch.randint(-1, rows, (2 * rows + 3,), dtype=torch.int32)
    with registry.override("transpose_shift", backend):
        assert_same(transpose_shift(on_gpu), reference.transpose_shift(a))
        assert_same(transpose_shift(on_gpu, picked.cuda()), reference.transpose_shift(a, picked))
        assert_same(transpose_shift(on_gpu, picked.cuda().long()), reference.transpose_shift(a, picked))


def test_the_gpu_cast_rounds_to_nearest() -> None:
    x = torch.randn(512, 1024, device="cuda")
    error = relative_error(dequantize(quantize_rows(x)), x)
    assert 0.024 < error < 0.028, error  # truncation would give 0.052
