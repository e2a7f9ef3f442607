"""What kernels quantise as they compute it, on a GPU: the bytes of a cast of its own, to the last."""

from __future__ import annotations

import layer_parts
import pytest
import torch
from torch import Tensor

from penstock.kernels import registry
from penstock.kernels.norm import add_rms_norm, add_rms_norm_quantize
from penstock.kernels.numeric import relative_error, same_bits
from penstock.kernels.permute.op import gather_sum
from penstock.kernels.quantize import quantize_rows
from penstock.kernels.registry import RECIPE_ENVIRONMENT
from penstock.kernels.route import route_tables
from penstock.kernels.states import Spread
from penstock.kernels.types import RowQ

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RECIPE_ENVIRONMENT, "shift")


def randn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


def is_hopper() -> bool:
    capability = registry.capability()
    return capability is not None and capability[0] == 9


def assert_rows_of(found: RowQ | None, values: Tensor) -> None:
    """Bytes and scales are those of a cast of its own."""
    expected = quantize_rows(values.reshape(-1, values.shape[-1]))
    assert found is not None
    assert same_bits(found.data, expected.data)
    assert same_bits(found.scale, expected.scale)


@pytest.mark.parametrize("size", [64, 512, 1280, 2048, 7168, 100])
@pytest.mark.parametrize("rows", [1, 3, 5000])
def test_add_rms_norm_quantize(rows: int, size: int) -> None:
    x, delta, w = randn(rows, size), randn(rows, size), randn(size, dtype=torch.float32)
    x[0, 0] = torch.inf
    for added in (None, delta):
        plain = add_rms_norm(x, added, w, 1e-6)
        total, kept = add_rms_norm_quantize(x, added, w, 1e-6)
        assert same_bits(total, plain[0])
        # The last bit of a sum of squares may differ, and with it a last bit of bfloat16 here and there.
        assert relative_error(kept.values[1:], plain[1][1:]) < 1e-4
        assert_rows_of(kept.rows, kept.values)
        total, states = add_rms_norm_quantize(x, added, w, 1e-6, keep=False)
        assert same_bits(total, plain[0])
        assert_rows_of(states.rows, kept.values)


@pytest.mark.parametrize(
    ("size", "added", "keep", "quantize"),
    [
        *((size, False, True, quantize) for size in (64, 100, 512, 900, 1280) for quantize in (False, True)),
        *((size, False, False, True) for size in (100, 512, 1280, 1536, 2048, 2500, 2560)),
        *((size, True, False, True) for size in (512, 1024, 1280)),
    ],
)
def test_a_norms_programs_may_have_many_tiles(
    size: int, added: bool, keep: bool, quantize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_hopper():
        pytest.skip("the Gluon kernels need Hopper (9.x)")
    from penstock.kernels.norm.autograd import _add_rms_norm
    from penstock.kernels.norm.forward_gluon import plan_for

    assert plan_for(size, added, 0, keep, quantize).resident > 0
    x, w = randn(1003, size + 8)[:, :size], randn(size, dtype=torch.float32 if size % 512 else torch.bfloat16)
    given = (x, randn(1003, size) if added else None, [], w, 1e-6, keep, quantize)
    expected = _add_rms_norm(*given)
    monkeypatch.setattr(registry, "multiprocessors", lambda _: 1)
    for a, b in zip(_add_rms_norm(*given), expected, strict=True):
        assert same_bits(a, b)


def test_gradients_of_a_norm_that_writes_no_values() -> None:
    inputs, results = (randn(300, 1280), randn(300, 1280), randn(1280, dtype=torch.float32)), []
    for keep in (True, False):
        given = [t.clone().requires_grad_() for t in inputs]
        total, states = add_rms_norm_quantize(*given, 1e-6, keep)
        torch.autograd.backward((total, states.values), inputs[:2])
        results.append([t.grad for t in given])
    for a, b in zip(*results, strict=True):
        assert same_bits(a, b)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
@pytest.mark.parametrize("size", [64, 512, 1280, 2048, 7168, 100])
@pytest.mark.parametrize("tokens", [1, 3, 5000])
def test_a_norm_sums_what_experts_hand_back(tokens: int, size: int, first: bool, second: bool) -> None:
    x, delta, w = randn(tokens, size), randn(tokens, size), randn(size, dtype=torch.float32)
    idx = torch.rand(tokens, 16, device="cuda").topk(6).indices.int()
    groups = route_tables(idx, 16, torch.arange(tokens, device="cuda") % 7 != 2)
    # Rows of nobody hold anything.
    rows = torch.where(groups.row_token[:, None] >= 0, randn(groups.n_rows, size), torch.nan)
    ups = [randn(tokens, size) for _ in range(3)]
    results = []
    for backend in ("gluon", "triton") if is_hopper() else ("triton",):
        given = [t.clone().requires_grad_() for t in (x, delta, w)]
        with registry.override("norm", backend):
            total, states = add_rms_norm_quantize(*given, 1e-6, True, (groups.n_rows, 6))
            assert states.spread is not None
            ends = [total, *states.spread.parts, *[states.values] * first, *[states.second] * second]
            sent = [ups[0], *Spread.gradients(rows, groups.token_pos), *ups[1 : 1 + first + second]]
            torch.autograd.backward(ends, sent)
        results.append([t.grad for t in given])
    whole = gather_sum(rows, None, groups.token_pos).float() + sum(ups[1 : 1 + first + second])
    given = [t.clone().float().requires_grad_() for t in (x, delta, w)]
    with registry.override("norm", "reference"):
        torch.autograd.backward(add_rms_norm(*given, 1e-6), (ups[0].float(), whole))
    for found in results:
        for a, b in zip(found, given, strict=True):
            assert relative_error(a, b.grad) < 8e-3
    for a, b in zip(results[0], results[-1], strict=True):
        assert relative_error(a, b) < 1e-4


@pytest.mark.parametrize("backend", ["gluon", "triton"])
@pytest.mark.parametrize("tokens", [1, 130, 4096])
@pytest.mark.parametrize(
    "name", ["attention", "rotation", "dense", "experts", "experts, one shared", "joint"]
)
def test_parts_of_a_layer(name: str, tokens: int, backend: str) -> None:
    if backend == "gluon" and not is_hopper():
        pytest.skip("the Gluon kernels need Hopper (9.x)")
    with torch.device("cuda"):
        part, inputs = layer_parts.cases(tokens, 1280)[name]
    with registry.override("norm", backend):
        found, expected = (layer_parts.results(part, inputs, together) for together in (True, False))
    for a, b in zip(found, expected, strict=True):
        assert a.isfinite().all()
        if backend == "gluon" and name.startswith("experts"):
            # The kernel that sums experts' rows adds up a row's products in another order.
            assert relative_error(a, b) < 1e-4
        else:
            assert layer_parts.same(a, b)


@pytest.mark.parametrize("name", ["attention", "experts"])
def test_a_part_of_a_layer_can_be_recorded(name: str) -> None:
    with torch.device("cuda"):
        part, inputs = layer_parts.cases(256, 1280)[name]
    expected = layer_parts.results(part, inputs, True)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = layer_parts.results(part, inputs, True)
    graph.replay()
    for a, b in zip(found, expected, strict=True):
        assert same_bits(a, b)
