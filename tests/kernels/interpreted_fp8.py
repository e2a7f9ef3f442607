"""What test_interpreter.py runs: plain Triton kernels for FP8, and norms, beside their references."""

from __future__ import annotations

import math
import os
import sys
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import conftest  # noqa: F401  (finds penstock.kernels where penstock is not installed)
import layer_parts
import torch
from interpreter import FLOAT32, both, cast_as_a_gpu, error_of_finite, expect, same

from penstock.kernels import quantize, registry
from penstock.kernels.gemm import gemm, gemm_triton, wgrad
from penstock.kernels.grouped_gemm import grouped_gemm, grouped_wgrad
from penstock.kernels.norm import add_rms_norm_quantize
from penstock.kernels.numeric import relative_error, same_bits
from penstock.kernels.permute import permute, permute_rows
from penstock.kernels.quantize import dequantize, quantize_triton, quantize_weight
from penstock.kernels.quantize.reference import (
    quantize_rows,
    quantize_tokens,
    transpose_shift,
)
from penstock.kernels.route import route_tables
from penstock.kernels.swiglu import swiglu_backward_quantize, swiglu_quantize
from penstock.kernels.types import RowQ

ROW_WEIGHT = torch.linspace(0, 2, 200)
ONE_BYTE = 2e-3
"""Where a last bit of what is quantised differs, a byte may."""


def casts() -> None:
    x = torch.randn(130, 300) * torch.exp2(torch.randint(-30, 30, (130, 1)).float())
    x[9] = 0
    x[10] *= 2.0**-130
    x[3, 5], x[4, 6], x[5], x[:, 7] = math.nan, math.inf, -math.inf, math.nan  # scales pass over them
    for cast in ("quantize_rows", "quantize_tokens", "quantize_both", "quantize_weight"):
        for given in (x, x.bfloat16(), x[:128, :256], x[:1, :5], x[:0], x[:, :0]):
            for power in (True, False):
                op = cast if cast == "quantize_both" else "quantize"
                with registry.override(op, "triton"):
                    found = getattr(quantize, cast)(given, power_of_two=power)
                expected = getattr(quantize, cast)(given, power_of_two=power)
                assert same(found, expected), (cast, given.dtype, given.shape, power)
        print(f"{cast} agrees")
    a = quantize_rows(x)
    for rows in (None, torch.randint(-1, 130, (300,)).int()):
        assert same(quantize_triton.transpose_shift(a, rows), transpose_shift(a, rows))
    print("transpose_shift agrees")


def producers() -> None:
    """What is quantised where it is computed, and quantised rows on their way to experts."""
    h, ds = torch.randn(200, 512), torch.randn(200, 256)
    with registry.override("swiglu_quantize", "triton"):
        found = (
            swiglu_quantize(h),
            swiglu_backward_quantize(ds, h),
            swiglu_backward_quantize(ds, h, ROW_WEIGHT),
        )
    wanted = (
        swiglu_quantize(h),
        swiglu_backward_quantize(ds, h),
        swiglu_backward_quantize(ds, h, ROW_WEIGHT),
    )
    expect("swiglu_quantize", relative_error(dequantize(found[0]), dequantize(wanted[0])), ONE_BYTE)
    for a, b in zip(found[1:], wanted[1:], strict=True):
        for part in ("dh", "dh_t", "s_t"):
            error = relative_error(dequantize(getattr(a, part)), dequantize(getattr(b, part)))
            expect(f"swiglu_backward_quantize {part}", error, ONE_BYTE)
        expect("swiglu_backward_quantize dp", relative_error(a.dp, b.dp), FLOAT32)
    extreme_gates()
    groups = route_tables(torch.randint(0, 8, (50, 3)).int(), 8, torch.rand(50) > 0.3)
    a = quantize_rows(torch.randn(50, 700))
    expected = permute_rows(a, groups)
    with registry.override("permute", "triton"):
        moved = permute_rows(a, groups)
    assert same_bits(moved.data, expected.data)
    assert same_bits(moved.scale, expected.scale)
    print("permute_rows agrees")


def extreme_gates() -> None:
    """Where exp overflows, and what is not finite."""
    gate = torch.tensor([-math.inf, -1e38, -104, -100, -88, 0, 88, 100, 1e38, math.inf, math.nan])
    h, ds = torch.randn(len(gate), 256), torch.randn(len(gate), 128)
    h[:, 7] = gate
    with registry.override("swiglu_quantize", "triton"):
        found = swiglu_quantize(h), swiglu_backward_quantize(ds, h)
    expected = swiglu_quantize(h), swiglu_backward_quantize(ds, h)
    pairs = [(found[0], expected[0])]
    pairs += [(getattr(found[1], part), getattr(expected[1], part)) for part in ("dh", "dh_t", "s_t")]
    for a, b in pairs:
        assert same_bits(a.scale, b.scale)
        expect("SwiGLU of extreme gates", error_of_finite(dequantize(a), dequantize(b)), ONE_BYTE)
    assert torch.allclose(found[1].dp, expected[1].dp, atol=1e-4, equal_nan=True)


def norms() -> None:
    for rows, size, keep in ((7, 300, True), (6, 100, False), (9, 1280, False), (1, 128, True)):
        inputs = torch.randn(rows, size), torch.randn(rows, size), torch.randn(size)
        results, quantized = [], []
        for backend in ("reference", "triton"):
            given = [t.clone().requires_grad_() for t in inputs]
            with registry.override("norm", backend):
                total, states = add_rms_norm_quantize(*given, 1e-6, keep)
                torch.autograd.backward((total, states.values), inputs[:2])
            results.append([total, *(t.grad for t in given), *([states.values] if keep else [])])
            quantized.append(states.rows)
        for expected, found in zip(*results, strict=True):
            expect("add_rms_norm_quantize", relative_error(found, expected), FLOAT32)
        expect_rows("add_rms_norm_quantize", quantized[1], quantized[0])


def parts_of_layers() -> None:
    """Bit for bit."""
    os.environ[registry.RECIPE_ENVIRONMENT] = "shift"
    with ExitStack() as stack:
        for op in ("norm", "quantize", "rope", "latent_attention", "permute"):
            stack.enter_context(registry.override(op, "triton"))
        cases = layer_parts.cases(30, 256, torch.float16)
        # Experts' gradients come row by row, but not in float16.
        cases |= {
            f"{k}, float32": v for k, v in layer_parts.cases(30, 256, torch.float32).items() if k[0] == "e"
        }
        for name, (part, inputs) in cases.items():
            found, expected = (layer_parts.results(part, inputs, together) for together in (True, False))
            assert all(map(layer_parts.same, found, expected)), name
            print(f"{name} agrees")
    del os.environ[registry.RECIPE_ENVIRONMENT]


def expect_rows(name: str, found: RowQ, expected: RowQ) -> None:
    assert same_bits(found.scale, expected.scale), name
    expect(f"{name}, rows", relative_error(dequantize(found), dequantize(expected)), ONE_BYTE)


def products() -> None:
    x, w, g = torch.randn(100, 288), torch.randn(160, 288), torch.randn(100, 160)
    for power in (True, False):
        a, c = quantize_rows(x, power), quantize_rows(g, power)
        b = quantize_weight(w, power_of_two=power)
        both("gemm", ("gemm",), lambda: gemm(a, b, out_dtype=torch.float32))  # noqa: B023
        turned = lambda: gemm(c, b, transposed=True, out_dtype=torch.float32)  # noqa: E731, B023
        both("gemm transposed", ("gemm",), turned)
    start = torch.randn(160, 288)
    idx = torch.randint(0, 3, (100, 2)).int()
    groups = route_tables(idx, 5)
    gathered, spread = permute(x, groups), permute(torch.randn(100, 192), groups)
    weight, total = quantize_weight(torch.randn(5, 192, 288)), torch.randn(5, 192, 288)
    end = int(groups.offsets[-1])
    for transposed, rows in ((False, gathered), (True, spread)):
        operand = quantize_rows(rows)
        call = lambda: grouped_gemm(operand, weight, groups, transposed, out_dtype=torch.float32)[:end]  # noqa: E731, B023
        both(f"grouped_gemm {transposed}", ("grouped_gemm",), call)
    casts = {"v3": quantize_tokens, "shift": lambda t: transpose_shift(quantize_rows(t))}
    for name, cast in (casts | {"v3, exact scales": lambda t: quantize_tokens(t, False)}).items():
        for add in (False, True):
            dense = (cast(torch.cat((g, g, g))), cast(torch.cat((x, -x, x))))
            call = lambda: wgrad(*dense, start.clone(), add)  # noqa: E731, B023
            both(f"wgrad {name} {add}", ("wgrad",), call)
            for n in (192, 80):
                grouped = (cast(spread[:, :n]), cast(gathered), groups)
                call = lambda: grouped_wgrad(*grouped, total[:, :n].clone(), add)  # noqa: E731, B023
                both(f"grouped_wgrad {name} {n} {add}", ("grouped_wgrad",), call)


def products_by_every_tile() -> None:
    """Sizes that leave a second half partly outside. Scales of columns have no wide tile."""
    gemm_triton._pinned = lambda acc: acc  # the interpreter knows no assembly
    for tile in (gemm_triton.LARGE, gemm_triton.WIDE, gemm_triton.SMALL):
        narrow = gemm_triton.LARGE if tile.wide else tile
        gemm_triton.tile_for = lambda p, t=tile, n=narrow: n if p.scales == "row_row" else t
        products()


if __name__ == "__main__":
    torch.manual_seed(0)
    cast_as_a_gpu()
    casts()
    producers()
    norms()
    parts_of_layers()
    products_by_every_tile()
