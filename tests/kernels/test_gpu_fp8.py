"""FP8 products and what feeds them on a GPU: within the gate, outputs poisoned first."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from penstock.kernels import registry
from penstock.kernels.gemm import gemm, wgrad, wgrads
from penstock.kernels.grouped_gemm import grouped_gemm, grouped_wgrad
from penstock.kernels.numeric import relative_error, same_bits
from penstock.kernels.permute import permute, permute_rows
from penstock.kernels.quantize import (
    dequantize,
    quantize_rows,
    quantize_tokens,
    quantize_weight,
    transpose_shift,
)
from penstock.kernels.route import route_tables
from penstock.kernels.swiglu import swiglu_backward_quantize, swiglu_quantize

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("needs_the_backend")]

BF16_GATE = 2e-3
FP32_GATE = 2e-4
BACKENDS = ["gluon", "triton"]
# cuBLAS has no product of blocks by blocks.
WGRADS = [("v3", "gluon"), ("v3", "triton"), ("v3", "torch"), ("shift", "gluon"), ("shift", "triton")]


@pytest.mark.parametrize("backend", [*BACKENDS, "torch"])
def test_products_take_any_scale(backend: str) -> None:
    m, n, k = 300, 576, 1280
    x, w, g = (torch.randn(shape, device="cuda") for shape in ((m, k), (n, k), (m, n)))
    a, b, c = quantize_rows(x, False), quantize_weight(w, None, False), quantize_rows(g, False)
    g_t, x_t = quantize_tokens(g, False), quantize_tokens(x, False)
    with registry.override("gemm", backend), registry.override("wgrad", backend):
        products = gemm(a, b, out_dtype=torch.float32), gemm(c, b, True, out_dtype=torch.float32)
        products = *products, wgrad(g_t, x_t)
    pairs = (a, b, True), (c, b, False), (g_t, x_t, True)
    for found, (left, right, turned) in zip(products, pairs, strict=True):
        factor = dequantize(right)
        assert relative_error(found, dequantize(left) @ (factor.t() if turned else factor)) < FP32_GATE


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("rows", "columns"), [(1, 128), (300, 640), (9000, 1408)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_swiglu_quantises_like_its_reference(backend: str, rows: int, columns: int, weighted: bool) -> None:
    """Sigmoids differ in their last bit, so now and then a byte does; a wrong place would differ widely."""
    h, ds = (torch.randn(rows, n, device="cuda").bfloat16() for n in (2 * columns, columns))
    p = torch.rand(rows, device="cuda") if weighted else None
    results = []
    for name in ("reference", backend):
        with registry.override("swiglu_quantize", name):
            back = swiglu_backward_quantize(ds, h, p)
            results.append((swiglu_quantize(h), back.dh, back.dh_t, back.s_t, back.dp))
    for a, b in zip(*results, strict=True):
        exact, found = (t if isinstance(t, torch.Tensor) else dequantize(t) for t in (a, b))
        assert relative_error(found, exact) < 2e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16])
def test_swiglu_takes_any_dtype_and_place(dtype: torch.dtype) -> None:
    """Whatever the fastest kernel wants of its operands: these start between two words of memory."""
    h, ds = (torch.randn(200 * n + 1, device="cuda").to(dtype)[1:].view(200, n) for n in (512, 256))
    found = swiglu_backward_quantize(ds, h)
    with registry.override("swiglu_quantize", "reference"):
        exact = swiglu_backward_quantize(ds, h)
    assert relative_error(found.dp, exact.dp) < 2e-3
    for part in ("dh", "dh_t", "s_t"):
        assert relative_error(*(dequantize(getattr(back, part)) for back in (found, exact))) < 2e-3


@pytest.mark.parametrize("backend", BACKENDS)
def test_swiglu_of_extreme_gates(backend: str) -> None:
    """Where exp overflows a sigmoid is zero, and what is not finite spoils its own bytes and no others."""
    inf = float("inf")
    gate = torch.tensor([-inf, -1e38, -104, -100, -88, -50, 0, 50, 88, 100, 104, 1e38, inf, float("nan")])
    h, ds = (torch.randn(len(gate), n, device="cuda").bfloat16() for n in (256, 128))
    h[:, 7] = gate
    h[3, :128], h[4, :128], h[5, :128] = -100, -88, -50  # nothing else in the tile
    results = []
    for name in ("reference", backend):
        with registry.override("swiglu_quantize", name):
            back = swiglu_backward_quantize(ds, h)
            results.append((*map(dequantize, (swiglu_quantize(h), back.dh, back.dh_t, back.s_t)), back.dp))
    for exact, found in zip(*results, strict=True):
        assert torch.equal(found.isnan(), exact.isnan())
        finite = exact.isfinite()
        assert relative_error(found[finite], exact[finite]) < 2e-3


@pytest.mark.parametrize("columns", [128, 576, 1280])
def test_quantised_rows_reach_their_experts_bit_for_bit(columns: int) -> None:
    groups = route_tables(torch.randint(0, 9, (300, 3), device="cuda").int(), 11)
    a = quantize_rows(torch.randn(300, columns, device="cuda"))
    with registry.override("permute", "reference"):
        expected = permute_rows(a, groups)
    moved = permute_rows(a, groups)
    assert same_bits(moved.data, expected.data)
    assert same_bits(moved.scale, expected.scale)


PRODUCTS = [
    (1, 128, 128),
    (37, 256, 576),
    (300, 576, 1280),
    (1024, 2496, 1280),
    (512, 192, 64),
    (8192, 4096, 512),
]


@pytest.mark.parametrize("backend", [*BACKENDS, "torch"])
@pytest.mark.parametrize(("m", "n", "k"), PRODUCTS)
def test_gemm_is_within_the_gate(m: int, n: int, k: int, backend: str) -> None:
    a = quantize_rows(torch.randn(m, k, device="cuda"))
    g = quantize_rows(torch.randn(m, n, device="cuda"))
    w = quantize_weight(torch.randn(n, k, device="cuda"))
    forward, backward = dequantize(a) @ dequantize(w).t(), dequantize(g) @ dequantize(w)
    with registry.override("gemm", backend):
        for dtype, gate in ((torch.bfloat16, BF16_GATE), (torch.float32, FP32_GATE)):
            out = torch.full((m, n), float("nan"), dtype=dtype, device="cuda")
            assert relative_error(gemm(a, w, out=out), forward) < gate
            out = torch.full((m, k), float("nan"), dtype=dtype, device="cuda")
            assert relative_error(gemm(g, w, transposed=True, out=out), backward) < gate


@pytest.mark.parametrize(("recipe", "backend"), WGRADS)
@pytest.mark.parametrize(
    ("n", "k", "tokens"),
    [(128, 128, 1), (576, 1280, 300), (1280, 640, 4096), (96, 64, 130), (1280, 1280, 8192), (500, 300, 4500)],
)
def test_wgrad_is_within_the_gate_and_repeats(n: int, k: int, tokens: int, recipe: str, backend: str) -> None:
    g, x = torch.randn(tokens, n, device="cuda"), torch.randn(tokens, k, device="cuda")
    if recipe == "v3":
        g_q, x_q = quantize_tokens(g), quantize_tokens(x)
    else:
        g_q, x_q = transpose_shift(quantize_rows(g)), transpose_shift(quantize_rows(x))
    expected = dequantize(g_q) @ dequantize(x_q).t()
    with registry.override("wgrad", backend):
        out = torch.full((n, k), float("nan"), device="cuda")
        assert relative_error(wgrad(g_q, x_q, out), expected) < FP32_GATE
        start = torch.randn(n, k, device="cuda")
        once, twice = (wgrad(g_q, x_q, start.clone(), accumulate=True) for _ in range(2))
    assert relative_error(once, start + expected) < FP32_GATE
    assert same_bits(once, twice)


@pytest.mark.parametrize("k", [128, 304, 1280, 4096])
@pytest.mark.parametrize(("m", "n"), [(1280, 1280), (2500, 576), (9600, 1408), (8192, 1280)])
def test_cut_tiles_agree_with_whole_ones(m: int, n: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Squares, squares that hang over, and halves of a last turn of which some lie below the edge."""
    from penstock.kernels.gemm import launch_gluon

    a, w = quantize_rows(torch.randn(m, k, device="cuda")), quantize_weight(torch.randn(n, k, device="cuda"))
    g, x = torch.randn(k, m, device="cuda"), torch.randn(k, n, device="cuda")
    shifted = [transpose_shift(quantize_rows(t)) for t in (g, x)]
    along = [quantize_tokens(t) for t in (g, x)]
    start = torch.randn(m, n, device="cuda")

    def results() -> list[torch.Tensor]:
        products = [gemm(a, w, out=torch.empty(m, n, device="cuda"))]
        products += [wgrad(*operands) for operands in (shifted, along)]
        return products + [wgrad(*operands, start.clone(), accumulate=True) for operands in (shifted, along)]

    with registry.override("gemm", "gluon"), registry.override("wgrad", "gluon"):
        once, twice = results(), results()
        monkeypatch.setattr(launch_gluon, "cut", lambda tile, *_: (tile, False))
        whole = results()
    for one, same, other in zip(once, twice, whole, strict=True):
        assert same_bits(one, same)
        assert relative_error(one, other) < 1e-6


def test_halves_keep_step() -> None:
    """Of two warpgroups none reads what is not there yet, and they do not wait for each other for ever."""
    a, w = (torch.randn(n, 1280, device="cuda") for n in (8192, 1280))
    rows, weight = quantize_rows(a), quantize_weight(w)
    g, x = (quantize_tokens(torch.randn(1920, n, device="cuda")) for n in (7168, 2048))
    with registry.override("gemm", "gluon"), registry.override("wgrad", "gluon"):
        for call in (partial(gemm, rows, weight), partial(wgrad, g, x)):
            first = call()
            assert all(same_bits(first, call()) for _ in range(1000))


@pytest.mark.parametrize("name", ["SMALL", "LARGE", "WIDE"])
def test_the_fallback_agrees_by_every_tile(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.kernels.gemm import gemm_triton

    monkeypatch.setattr(gemm_triton, "tile_for", lambda *_: getattr(gemm_triton, name))
    for m, n, k in PRODUCTS:
        test_gemm_is_within_the_gate(m, n, k, "triton")
    for n, k, tokens in ((576, 1280, 300), (96, 64, 130)):
        test_wgrad_is_within_the_gate_and_repeats(n, k, tokens, "shift", "triton")


LISTS = [
    [(1280, 1280, 512)] * 6,
    [(576, 1280, 300), (128, 128, 1), (2496, 640, 4096), (100, 64, 130), (30, 20, 130)],
    [(256, 512, 256)] * 19,
]


@pytest.mark.parametrize(("recipe", "backend"), WGRADS)
@pytest.mark.parametrize("sizes", LISTS, ids=["equal", "mixed", "long"])
def test_a_list_of_wgrads_equals_each_alone(
    sizes: list[tuple[int, int, int]], recipe: str, backend: str
) -> None:
    cast = quantize_tokens if recipe == "v3" else lambda t: transpose_shift(quantize_rows(t))
    operands = [
        (cast(torch.randn(tokens, n, device="cuda")), cast(torch.randn(tokens, k, device="cuda")))
        for n, k, tokens in sizes
    ]
    starts = [torch.randn(n, k, device="cuda") for n, k, _ in sizes]
    for accumulate in (False, True):
        outs = [start.clone() if accumulate else torch.full_like(start, float("nan")) for start in starts]
        alone = [out.clone() for out in outs]
        with registry.override("wgrad", backend):
            wgrads([(g, x, out) for (g, x), out in zip(operands, outs, strict=True)], accumulate)
            for (g, x), out in zip(operands, alone, strict=True):
                wgrad(g, x, out, accumulate)
        for (g, x), out, one, start in zip(operands, outs, alone, starts, strict=True):
            expected = dequantize(g) @ dequantize(x).t() + (start if accumulate else 0)
            assert relative_error(out, expected) < FP32_GATE
            assert relative_error(out, one) < 1e-6


def grouped_case(n: int, k: int, tokens: int = 700, experts: int = 9):
    """Rows for nine experts of which two are empty and one has a single token."""
    idx = torch.randint(0, experts - 3, (tokens, 2), dtype=torch.int32, device="cuda")
    idx[5, 0] = experts - 2
    groups = route_tables(idx, experts)
    x, g = (permute(torch.randn(tokens, size, device="cuda"), groups) for size in (k, n))
    return groups, x, g, torch.randn(experts, n, k, device="cuda")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("n", "k"), [(128, 128), (1280, 640), (576, 320), (192, 64)])
def test_grouped_gemm_is_within_the_gate(n: int, k: int, backend: str) -> None:
    groups, x, g, w = grouped_case(n, k)
    end = int(groups.offsets[-1])
    rows, grads, weight = quantize_rows(x), quantize_rows(g), quantize_weight(w)
    for transposed, operand in ((False, rows), (True, grads)):
        for dtype, gate in ((torch.bfloat16, BF16_GATE), (torch.float32, FP32_GATE)):
            with registry.override("grouped_gemm", "reference"):
                expected = grouped_gemm(operand, weight, groups, transposed, out_dtype=torch.float32)
            with registry.override("grouped_gemm", backend):
                out = torch.full(expected.shape, float("nan"), dtype=dtype, device="cuda")
                grouped_gemm(operand, weight, groups, transposed, out)
            assert relative_error(out[:end], expected[:end]) < gate


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recipe", ["v3", "shift"])
@pytest.mark.parametrize(("n", "k"), [(128, 128), (1280, 640), (576, 320), (192, 64), (80, 64)])
def test_grouped_wgrad_is_within_the_gate_and_repeats(n: int, k: int, recipe: str, backend: str) -> None:
    groups, x, g, w = grouped_case(n, k)
    cast = quantize_tokens if recipe == "v3" else lambda t: transpose_shift(quantize_rows(t))
    g_q, x_q = cast(g), cast(x)
    with registry.override("grouped_wgrad", "reference"):
        expected = grouped_wgrad(g_q, x_q, groups)
    with registry.override("grouped_wgrad", backend):
        out = grouped_wgrad(g_q, x_q, groups, torch.full_like(w, float("nan")))
        once, twice = (grouped_wgrad(g_q, x_q, groups, w.clone(), accumulate=True) for _ in range(2))
    assert relative_error(out, expected) < FP32_GATE
    assert not out[-1].any(), "an expert without tokens has no gradient"
    assert relative_error(once, w + expected) < FP32_GATE
    assert same_bits(once, twice)


@pytest.mark.parametrize("seed", range(4))
def test_grouped_wgrad_takes_every_tile_once(seed: int) -> None:
    """Experts of very different sizes, most of them empty, and more tiles than multiprocessors."""
    torch.manual_seed(seed)
    busy = torch.randint(0, 256, (20,), device="cuda")
    idx = busy[torch.randint(0, 20, (1500, 1), device="cuda")].int()
    groups = route_tables(idx, 256)
    x, g = (
        permute(torch.randn(1500, size, device="cuda", dtype=torch.bfloat16), groups) for size in (384, 640)
    )
    g_q, x_q = (transpose_shift(quantize_rows(t)) for t in (g, x))
    with registry.override("grouped_wgrad", "reference"):
        expected = grouped_wgrad(g_q, x_q, groups)
    start = torch.randn_like(expected)
    with registry.override("grouped_wgrad", "gluon"):
        out = grouped_wgrad(g_q, x_q, groups, torch.full_like(expected, float("nan")))
        added = grouped_wgrad(g_q, x_q, groups, start.clone(), accumulate=True)
    assert relative_error(out, expected) < FP32_GATE
    assert relative_error(added, start + expected) < FP32_GATE


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("experts", [1, 256])
def test_one_expert_and_many(experts: int, backend: str) -> None:
    groups = route_tables(torch.randint(0, experts, (600, 1), dtype=torch.int32, device="cuda"), experts)
    x, w = (
        permute(torch.randn(600, 256, device="cuda"), groups),
        torch.randn(experts, 384, 256, device="cuda"),
    )
    g = permute(torch.randn(600, 384, device="cuda"), groups)
    end = int(groups.offsets[-1])
    a, weight = quantize_rows(x), quantize_weight(w)
    transposed = transpose_shift(quantize_rows(g)), transpose_shift(a)
    results = []
    for name in ("reference", backend):
        with registry.override("grouped_gemm", name), registry.override("grouped_wgrad", name):
            product = grouped_gemm(a, weight, groups, out_dtype=torch.float32)[:end]
            results.append((product, grouped_wgrad(*transposed, groups, w.clone(), accumulate=True)))
    for expected, found in zip(*results, strict=True):
        assert relative_error(found, expected) < FP32_GATE
