"""What test_interpreter.py runs: every plain Triton kernel beside its reference."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import conftest  # noqa: F401  (finds penstock.kernels where penstock is not installed)
import layer_parts
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter

from penstock.kernels import quantize, registry
from penstock.kernels.adamw import adamw_step
from penstock.kernels.attention import find_documents, latent_attention, latent_triton
from penstock.kernels.cross_entropy import joint_cross_entropy
from penstock.kernels.embedding import embedding
from penstock.kernels.gemm import gemm, gemm_triton, wgrad
from penstock.kernels.gradient_norm import gradient_norm, gradient_norm_triton
from penstock.kernels.grouped_gemm import grouped_gemm, grouped_wgrad
from penstock.kernels.mla import rotate_heads
from penstock.kernels.norm import add_rms_norm, add_rms_norm_quantize, rms_norm
from penstock.kernels.numeric import relative_error, same_bits
from penstock.kernels.permute import combine, permute, permute_rows
from penstock.kernels.permute.op import gather_sum
from penstock.kernels.quantize import dequantize, quantize_triton, quantize_weight
from penstock.kernels.quantize.reference import (
    quantize_rows,
    quantize_tokens,
    transpose_shift,
)
from penstock.kernels.route import balance_loss, route, route_tables, router_logits
from penstock.kernels.swiglu import swiglu, swiglu_backward_quantize, swiglu_quantize
from penstock.kernels.types import FP8, RowQ

FLOAT32 = 1e-6
ROW_WEIGHT = torch.linspace(0, 2, 200)
ONE_BYTE = 2e-3
"""Where a last bit of what is quantised differs, a byte may."""


FORMATS = {
    tl.float8e4nv: FP8, tl.bfloat16: torch.bfloat16, tl.float16: torch.float16, tl.float32: torch.float32,
}  # fmt: skip


def cast_as_a_gpu() -> None:
    """Replace the interpreter's casts, which lose carries, NaN and subnormals, or cut off digits."""

    def convert(data: Any, source: tl.dtype, target: tl.dtype, _rounding: object) -> Any:
        x = torch.from_numpy(data).view(FORMATS[source]).float()
        if target == tl.float8e4nv:  # all NaN are one, and what is too large becomes the largest
            x = torch.where(x.isnan(), math.nan, x.clamp(-448, 448))
        return x.to(FORMATS[target]).view(getattr(torch, f"uint{target.primitive_bitwidth}")).numpy()

    interpreter._convert_float = convert


def expect(name: str, error: float, bound: float) -> None:
    assert error <= bound, f"{name}: {error} > {bound}"
    print(f"{name} agrees: {error:.2g}")


def error_of_finite(found: Tensor, expected: Tensor) -> float:
    assert torch.equal(found.isnan(), expected.isnan())
    finite = expected.isfinite()
    return relative_error(found[finite], expected[finite])


def same(found: object, expected: object) -> bool:
    """Whether two quantised tensors, or tuples of them, are equal bit for bit."""
    if isinstance(expected, tuple):
        return all(map(same, found, expected))
    return all(map(same_bits, found.parts, expected.parts))


def both(name: str, ops: tuple[str, ...], call: Callable[[], Tensor], bound: float = FLOAT32) -> None:
    results = []
    for backend in ("reference", "triton"):
        with ExitStack() as stack:
            for op in ops:
                stack.enter_context(registry.override(op, backend))
            results.append(call())
    expect(name, relative_error(results[1], results[0]), bound)


def with_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], Tensor]:
    """Result and gradients in one vector."""

    def call() -> Tensor:
        leaves = [t.detach().clone().requires_grad_() for t in inputs]
        y = function(*leaves)
        y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape))
        return torch.cat([y.flatten(), *(t.grad.flatten() for t in leaves)])

    return call


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


def attentions() -> None:
    """A small tile, so that rows have whole, masked and unvisited blocks."""
    tile = latent_triton.Tile(own=32, met=16, warps=4, stages=1)
    latent_triton.FORWARD = latent_triton.KEYS = latent_triton.QUERIES = tile
    inputs = (
        torch.randn(2, 150, 2, 32),
        torch.randn(2, 150, 2, 16),
        torch.randn(2, 150, 2, 48),
        torch.randn(2, 150, 16),
    )
    up = torch.randn(2, 150, 2, 16)
    ids = torch.zeros(2, 150, dtype=torch.int64)
    ids[0, 7:], ids[0, 60:], ids[0, 149:], ids[1, 96:] = 1, 2, -1, 1
    for documents in (None, find_documents(ids)):
        leaves = [t.clone().requires_grad_() for t in inputs]
        expected = latent_attention(*leaves, 0.2, documents)
        expected.backward(up)
        bounds = None if documents is None else (documents.starts, documents.ends)
        out, lse, *_ = latent_triton.forward(*inputs, 0.2, None if bounds is None else bounds[0])
        *gradients, _ = latent_triton.backward(up, out, lse, *inputs, 0.2, bounds)
        expect("latent_attention", relative_error(out, expected), 2e-6)
        for given, leaf in zip(gradients, leaves, strict=True):
            expect("its gradient", relative_error(given, leaf.grad), 2e-6)


def rotations() -> None:
    q, k = torch.randn(2, 9, 3, 29), torch.randn(2, 9, 20)
    for interleaved in (True, False):
        for batch, wide in ((1, 8), (2, 16)):
            cos, sin = torch.randn(batch, 9, wide), torch.randn(batch, 9, wide)
            heads = lambda q, k: rotate_heads(q, k[..., 4:], cos, sin, interleaved)  # noqa: E731, B023
            rotated = lambda q, k: torch.cat([t.flatten() for t in heads(q, k)])  # noqa: E731, B023
            both("rotate_heads", ("rope",), with_gradients(rotated, q, k))


def streams() -> None:
    """What runs along the residual stream."""
    norm = with_gradients(lambda x, w: rms_norm(x, w, 1e-6), torch.randn(7, 3, 100), torch.randn(100))
    both("rms_norm", ("norm",), norm)
    summed = lambda x, delta, w: torch.cat(add_rms_norm(x, delta, w, 1e-6))  # noqa: E731
    streams = (torch.randn(7, 3, 100), torch.randn(7, 3, 100), torch.randn(100))
    both("add_rms_norm", ("norm",), with_gradients(summed, *streams))
    strided = lambda x, w: torch.cat(add_rms_norm(x[..., :100], None, w, 1e-6))  # noqa: E731
    both("rms_norm of a slice", ("norm",), with_gradients(strided, torch.randn(7, 3, 130), torch.randn(100)))
    strided = lambda x, w: rms_norm(x, w[:, 1], 1e-6)  # noqa: E731
    both("rms_norm of a column", ("norm",), with_gradients(strided, torch.randn(7, 100), torch.randn(100, 3)))
    rotations()
    for tokens in (torch.randint(0, 60, (2, 45)), torch.tensor([7] * 100 + [0, 59])):
        table = torch.randn(60, 300)
        rows = with_gradients(lambda w: embedding(tokens, w, torch.float32), table)  # noqa: B023
        both("embedding", ("embedding",), rows)
    with registry.override("embedding", "triton"):
        assert embedding(torch.tensor([-1, 60]), table, torch.float32).isnan().all()
    both("swiglu", ("swiglu",), with_gradients(swiglu, torch.randn(7, 3000)))


def routing() -> None:
    for n_group, topk_group, normalised in ((1, 1, True), (4, 2, False), (8, 3, True)):
        arguments = (torch.rand(16) / 4, n_group, topk_group, 4, 2.5, normalised)
        logits = torch.randn(150, 16)
        weights = lambda t: route(t, *arguments).p.sum(1) + route(t, *arguments).scores.square().sum(1)  # noqa: E731, B023
        both("route", ("route",), with_gradients(weights, logits))
        with registry.override("route", "triton"):
            found = route(logits, *arguments)
        expected = route(logits, *arguments)
        assert torch.equal(found.idx, expected.idx)
        assert torch.equal(found.highest, expected.highest)
    for experts, masked, block in ((8, True, 4), (5, False, 128), (64, True, 16), (1, False, 1)):
        idx, valid = torch.randint(0, experts, (500, 3)).int(), torch.rand(500) > 0.3 if masked else None
        for tokens in (500, 100, 0):
            arguments = (idx[:tokens], experts, None if valid is None else valid[:tokens], block)
            with registry.override("route_tables", "triton"):
                found = route_tables(*arguments)
            for name, expected in vars(route_tables(*arguments)).items():
                assert name == "block" or torch.equal(getattr(found, name), expected), name
    print("route_tables agrees")
    highest, real = torch.randint(0, 10, (3, 900, 4)), torch.rand(3, 900) > 0.3
    real[2] = False
    for valid in (None, real):
        balance = with_gradients(lambda s, v=valid: balance_loss(s, highest, v), torch.rand(3, 900, 10))
        both("balance_loss", ("balance_loss",), balance)
    # In float32 alone: the interpreter multiplies bfloat16 numbers as if they were integers.
    logits = with_gradients(router_logits, torch.randn(150, 200), torch.randn(70, 200))
    both("router_logits", ("router_logits",), logits)
    turned = with_gradients(lambda x, w: router_logits(x, w.t()), torch.randn(50, 80), torch.randn(80, 70))
    both("router_logits of a transpose", ("router_logits",), turned)


def moves() -> None:
    groups = route_tables(torch.randint(0, 8, (20, 3)).int(), 8, torch.rand(20) > 0.3, block=4)
    both("permute", ("permute",), with_gradients(lambda x: permute(x, groups), torch.randn(20, 1100)))
    moved = with_gradients(
        lambda y, p: combine(y, p, groups), torch.randn(groups.n_rows, 1100), torch.rand(20, 3)
    )
    both("combine", ("permute",), moved)
    y, extra = torch.randn(groups.n_rows, 1100), torch.randn(20, 1100)
    both("gather_sum", ("permute",), lambda: gather_sum(y, None, groups.token_pos, extra))


def losses_and_updates() -> None:
    target = torch.randint(0, 5000, (20,))
    target[3] = -100
    states, matrix = (torch.randn(20, 16), torch.randn(20, 16)), torch.randn(20000, 16)
    heads = lambda x, y, w: joint_cross_entropy([x, y], w, [target] * 2, [1, 0.3], 8, "fp32", 1e-3).total  # noqa: E731
    both("cross_entropy", ("cross_entropy",), with_gradients(heads, *states, matrix))

    def steps() -> Tensor:
        p, m, v = torch.ones(3000), torch.zeros(3000), torch.zeros(3000)
        for step in range(1, 4):
            adamw_step([p], [torch.linspace(-1, 1, 3000)], [m], [v], 1e-2, step=step, clip_coefficient=0.5)
        return torch.cat((p, m, v))

    both("adamw", ("adamw",), steps)

    def steps_by_tensors() -> Tensor:
        p, m, v = torch.ones(3000), torch.zeros(3000), torch.zeros(3000)
        lr, step, clip = torch.tensor([1e-2]), torch.tensor(0), torch.tensor(0.5)
        for _ in range(3):
            step += 1
            adamw_step([p], [torch.linspace(-1, 1, 3000)], [m], [v], lr, step=step, clip_coefficient=clip)
        return torch.cat((p, m, v))

    both("adamw of numbers in tensors", ("adamw",), steps_by_tensors)
    assert same_bits(steps(), steps_by_tensors())

    def copies() -> Tensor:
        """An update that also writes what products read: in FP8, sizes that are no multiple of 128."""
        p, m, v = torch.randn(2, 130, 200, generator=torch.manual_seed(1)), *torch.zeros(2, 2, 130, 200)
        copy = quantize_weight(p)
        narrow, plain = torch.empty(3000, dtype=torch.bfloat16), torch.linspace(1, 2, 3000)
        states = ([p, plain], [p.sin(), plain.cos()], [m, plain * 0], [v, plain * 0])
        adamw_step(*states, 1e-2, copies=[copy, narrow])
        assert same_bits(narrow, plain.bfloat16())
        assert same(copy, quantize_weight(p))
        return torch.cat((p.flatten(), m.flatten(), v.flatten(), plain))

    both("adamw with copies", ("adamw",), copies)


def sums_of_gradients() -> None:
    """Sizes around that of a program, more tensors than one launch takes; then what a sum must not lose."""
    chunk, many = gradient_norm_triton.CHUNK, gradient_norm_triton.TENSORS // 4 + 1
    sizes = [0, 1, chunk - 1, chunk + 1, 3 * chunk + 5] + [16, chunk, 5 * chunk, 2 * chunk + 16] * many
    grads = [torch.randn(size) for size in sizes]
    grads += [torch.randn(300, 200).t().bfloat16(), torch.randn(64).bfloat16(), torch.tensor(2.0)]
    grads.append(torch.randn(70)[6:])  # a multiple of 16 where no vector of 16 bytes can start
    grads[0:0] = grads[-4:]
    both("gradient_norm", ("gradient_norm",), lambda: gradient_norm(grads), 1e-7)
    alone = lambda: torch.stack([gradient_norm([g]) for g in grads])  # noqa: E731
    both("gradient_norm of each", ("gradient_norm",), alone, 1e-7)
    with registry.override("gradient_norm", "triton"):
        large = [torch.full((count,), 1e16) for count in (100, 70000)]
        assert relative_error(gradient_norm(large), torch.tensor(70100**0.5 * 1e16)) < FLOAT32
        assert gradient_norm([*large, torch.tensor(2e19)]) == torch.inf
        for bad in (torch.inf, torch.nan):
            grads[-4][3, 5] = bad
            found = gradient_norm(grads)
            assert torch.equal(found.isnan(), torch.tensor(bad != torch.inf))
            assert not found.isfinite()
        assert gradient_norm([torch.empty(0), torch.empty(3, 0)]) == 0


if __name__ == "__main__":
    torch.manual_seed(0)
    cast_as_a_gpu()
    casts()
    producers()
    norms()
    parts_of_layers()
    products_by_every_tile()
    attentions()
    streams()
    routing()
    moves()
    losses_and_updates()
    sums_of_gradients()
