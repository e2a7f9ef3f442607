"""The ops a model calls, on a GPU: against their references in float64."""

from __future__ import annotations

import pytest
import torch
from float64 import BF16, compare, randn
from torch import Tensor

from penstock.kernels import registry
from penstock.kernels.attention import attention
from penstock.kernels.cross_entropy import joint_cross_entropy, linear_cross_entropy
from penstock.kernels.embedding import embedding
from penstock.kernels.gemm import accumulate_in_place
from penstock.kernels.mla import rotate_heads
from penstock.kernels.norm import add_rms_norm, rms_norm
from penstock.kernels.numeric import relative_error, same_bits
from penstock.kernels.permute import combine, permute
from penstock.kernels.route import balance_loss, route, route_tables, router_logits
from penstock.kernels.swiglu import swiglu

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("size", [64, 1280, 2048, 7168, 100])
def test_rms_norm(size: int) -> None:
    for rows in (300, 5003):
        compare(lambda x, w: rms_norm(x, w, 1e-6), randn(rows, size), randn(size, dtype=torch.float32))


@pytest.mark.parametrize("size", [64, 512, 1280, 7168, 100])
@pytest.mark.parametrize("rows", [1, 3, 5000])
def test_add_rms_norm(rows: int, size: int) -> None:
    x, delta, w = randn(rows, size), randn(rows, size), randn(size, dtype=torch.float32)
    compare(lambda x, delta, w: torch.cat(add_rms_norm(x, delta, w, 1e-6)), x, delta, w)
    compare(lambda x, w: torch.cat(add_rms_norm(x[:, :size], None, w, 1e-6)), randn(rows, size + 64), w)
    with registry.override("norm", "reference"):
        expected = add_rms_norm(x, delta, w, 1e-6)
    assert same_bits(add_rms_norm(x, delta, w, 1e-6)[0], expected[0])


def test_the_norms_gradients_repeat() -> None:
    x, w, up = randn(5000, 1280), randn(1280, dtype=torch.float32), randn(5000, 1280)
    results = []
    for _ in range(2):
        given, weight = x.clone().requires_grad_(), w.clone().requires_grad_()
        rms_norm(given, weight, 1e-6).backward(up)
        results.append((given.grad, weight.grad))
    for a, b in zip(*results, strict=True):
        assert same_bits(a, b)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rows", [1, 2])
def test_rotate_heads(rows: int, interleaved: bool) -> None:
    cos, sin = (randn(rows, 700, 64, dtype=torch.float32) for _ in range(2))

    def rotated(q: Tensor, k: Tensor) -> Tensor:
        parts = rotate_heads(q, k[..., 512:], cos, sin, interleaved)
        return torch.cat([t.flatten() for t in parts])

    compare(rotated, randn(2, 700, 10, 192), randn(2, 700, 576))


def test_embedding() -> None:
    tokens = torch.randint(0, 5000, (2, 4096), device="cuda") ** 2 // 5000
    tokens[0, :2000] = 17
    w, up = randn(5000, 1280, dtype=torch.float32), randn(2, 4096, 1280)
    results = []
    for backend in ("reference", "triton", "triton"):
        fused = w.clone().requires_grad_()
        accumulate_in_place([fused])
        with registry.override("embedding", backend):
            for _ in range(2):
                y = embedding(tokens, fused, torch.bfloat16)
                y.backward(up)
        results.append((y, fused.grad))
    assert same_bits(results[0][0], results[1][0])
    assert relative_error(results[1][1], results[0][1]) < 1e-6
    assert same_bits(results[1][1], results[2][1])


def test_gradients_of_embeddings_are_recorded() -> None:
    tokens, up = torch.randint(0, 500, (9000,), device="cuda"), randn(9000, 256)
    w = randn(500, 256, dtype=torch.float32).requires_grad_()
    accumulate_in_place([w])
    embedding(tokens, w, torch.bfloat16).backward(up)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        embedding(tokens, w, torch.bfloat16).backward(up)
    tokens.copy_(torch.randint(0, 500, (9000,), device="cuda"))
    w.grad.zero_()
    graph.replay()
    expected = torch.zeros_like(w).index_add_(0, tokens, up.float())
    assert relative_error(w.grad, expected) < 1e-6


@pytest.mark.parametrize("columns", [64, 640, 1408, 3000])
def test_swiglu(columns: int) -> None:
    compare(swiglu, randn(200, 2 * columns))


def test_permute_and_combine() -> None:
    valid = torch.rand(500, device="cuda") > 0.1
    groups = route_tables(torch.randint(0, 16, (500, 6), device="cuda").int(), 16, valid)
    compare(lambda x: permute(x, groups), randn(500, 1280))
    y = randn(groups.n_rows, 1280)
    compare(lambda y, p: combine(y, p, groups), y, randn(500, 6, dtype=torch.float32))


def test_linear_cross_entropy() -> None:
    target = torch.randint(0, 5003, (300,), device="cuda")
    target[7] = -100
    w = randn(5003, 256, dtype=torch.float32) * 0.1

    def loss(x: Tensor, w: Tensor) -> Tensor:
        return linear_cross_entropy(x, w, target, 128, "bf16" if x.dtype == torch.bfloat16 else "fp32")

    compare(loss, randn(300, 256), w, bound=1e-2)
    target[3] = 5003
    assert loss(randn(300, 256), w).isnan(), "a target outside the vocabulary is not an address"


@pytest.mark.parametrize("vocabulary", [5003, 65536, 128000])
def test_joint_cross_entropy(vocabulary: int) -> None:
    """More rows than programs; a head's weight and the z-loss enter its gradients."""
    targets = [torch.randint(0, vocabulary, (500,), device="cuda") for _ in range(2)]
    targets[0][3:9] = -100
    w = randn(vocabulary, 128, dtype=torch.float32) * 0.1

    def loss(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        precision = "bf16" if x.dtype == torch.bfloat16 else "fp32"
        return joint_cross_entropy([x, y], w, targets, [1.0, 0.3], 200, precision, 1e-3).total

    compare(loss, randn(500, 128), randn(500, 128), w, bound=1e-2)


@pytest.mark.parametrize("documents", [False, True])
def test_attention(documents: bool) -> None:
    ids = torch.randint(0, 3, (2, 256), device="cuda").sort(1).values if documents else None
    q, k, v = randn(2, 256, 4, 192), randn(2, 256, 4, 192), randn(2, 256, 4, 128)
    compare(lambda q, k, v: attention(q, k, v, 192**-0.5, ids), q, k, v, bound=1.5e-2)


@pytest.mark.parametrize(
    ("experts", "n_group", "topk_group"), [(64, 8, 4), (16, 1, 1), (256, 8, 4), (8, 2, 1)]
)
def test_route(experts: int, n_group: int, topk_group: int) -> None:
    logits, bias = randn(700, experts, dtype=torch.float32), randn(experts, dtype=torch.float32) / 8
    arguments = (bias, n_group, topk_group, 4, 2.5)
    compare(lambda t: route(t, *arguments).p.square() + route(t, *arguments).scores.sum(), logits, bound=1e-5)
    with registry.override("route", "reference"):
        expected = route(logits, *arguments)
    for _ in range(2):
        found = route(logits, *arguments)
        assert torch.equal(found.idx, expected.idx)
        assert torch.equal(found.highest, expected.highest)


@pytest.mark.parametrize("experts", [8, 64, 160, 256])
@pytest.mark.parametrize("tokens", [1, 700, 8192])
def test_route_tables(tokens: int, experts: int) -> None:
    idx = torch.stack([torch.randperm(experts, device="cuda")[:6] for _ in range(tokens)]).int()
    idx[: tokens // 3] = idx[0]  # some experts have many tokens
    for valid in (None, torch.rand(tokens, device="cuda") > 0.2):
        with registry.override("route_tables", "reference"):
            expected = route_tables(idx, experts, valid)
        for _ in range(2):
            found = route_tables(idx, experts, valid)
            for name, tensor in vars(expected).items():
                assert name == "block" or torch.equal(getattr(found, name), tensor), name


@pytest.mark.parametrize("experts", [64, 160])
def test_balance_loss(experts: int) -> None:
    highest = torch.randint(0, experts, (3, 1000, 6), device="cuda").int()
    valid = torch.rand(3, 1000, device="cuda") > 0.2
    valid[1] = False
    for mask in (None, valid):
        scores = torch.rand(3, 1000, experts, device="cuda")
        compare(lambda s, v=mask: balance_loss(s, highest, v), scores, bound=1e-5)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, BF16), (torch.float32, 1e-6)])
@pytest.mark.parametrize(("tokens", "size", "experts"), [(700, 1280, 64), (64, 100, 7), (300, 7168, 256)])
def test_router_logits(tokens: int, size: int, experts: int, dtype: torch.dtype, bound: float) -> None:
    """Logits and the weight's gradient are as in float32, whatever the activations."""
    x, w = randn(tokens, size, dtype=dtype), randn(experts, size, dtype=torch.float32)
    exact = [t.detach().double().requires_grad_() for t in (x, w)]
    given = [t.detach().requires_grad_() for t in (x, w)]
    found, expected = router_logits(*given), router_logits(*exact)
    up = torch.randn_like(found)
    found.backward(up)
    expected.backward(up.double())
    assert relative_error(found, expected) < 1e-6
    assert relative_error(given[1].grad, exact[1].grad) < 1e-6
    assert relative_error(given[0].grad, exact[0].grad) < bound
