"""Latent attention on a GPU: both kernels against the reference in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from float64 import compare, randn
from torch import Tensor

from penstock.kernels import registry
from penstock.kernels.attention import find_documents, latent_attention
from penstock.kernels.numeric import relative_error, same_bits
from penstock.kernels.quantize import quantize_rows
from penstock.kernels.states import States, place_of
from penstock.kernels.types import RowQ

pytestmark = pytest.mark.gpu


def matrix(x: Tensor) -> Tensor:
    """Tokens by all features of all heads."""
    return x.flatten(0, 1).flatten(1)


def latent_case(size: int, heads: int = 4, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, ...]:
    """Queries and keys as slices of products, as the model has them."""
    q, q_rope, kv = (randn(2, size, heads, width, dtype=dtype) for width in (192, 64, 256))
    return q[..., :128], q_rope, kv, randn(2, size, 64, dtype=dtype)


def ragged_ids(size: int) -> Tensor:
    """Documents of many lengths, one of a single token, padding at the end of a row."""
    ids = torch.zeros(2, size, dtype=torch.int64, device="cuda")
    for number, start in enumerate((1, size // 3, size // 3 + 1, size // 2 + 5), 1):
        ids[0, start:] = number
    ids[1, size - size // 4 :] = -1
    return ids


@pytest.mark.parametrize("backend", ["gluon", "triton"])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("size", [1, 100, 128, 512, 1500, 1536])
@pytest.mark.usefixtures("needs_the_backend")
def test_latent_attention(size: int, documents: bool, backend: str) -> None:
    found = find_documents(ragged_ids(size)) if documents and size > 1 else None
    with registry.override("latent_attention", backend):
        compare(lambda *t: latent_attention(*t, 192**-0.5, found), *latent_case(size), bound=1e-2)


@pytest.mark.parametrize("backend", ["gluon", "triton"])
@pytest.mark.parametrize(("heads", "dtype"), [(1, torch.bfloat16), (10, torch.float16)])
@pytest.mark.usefixtures("needs_the_backend")
def test_latent_attention_of_other_heads_and_halves(heads: int, dtype: torch.dtype, backend: str) -> None:
    found = find_documents(ragged_ids(384))
    with registry.override("latent_attention", backend):
        compare(
            lambda *t: latent_attention(*t, 192**-0.5, found), *latent_case(384, heads, dtype), bound=1e-2
        )


@pytest.mark.parametrize("scale", [0.0, -0.1])
def test_latent_attention_takes_any_scale(scale: float) -> None:
    compare(lambda *t: latent_attention(*t, scale), *latent_case(256), bound=1e-2)


@pytest.mark.parametrize("backend", ["gluon"])
@pytest.mark.parametrize("value", [-(2**31), -1, 0, 513, 2**31 - 1])
@pytest.mark.usefixtures("needs_the_backend")
def test_latent_attention_ends_whatever_tables_hold(value: int, backend: str) -> None:
    found = find_documents(ragged_ids(512))
    wrong = torch.full_like(found.starts, value)
    leaves = [t.detach().requires_grad_() for t in latent_case(512)]
    with registry.override("latent_attention", backend):
        bounds = dataclasses.replace(found, starts=wrong, ends=wrong)
        latent_attention(*leaves, 0.1, bounds).sum().backward()
    torch.cuda.synchronize()


def results(inputs: tuple[Tensor, ...], documents: bool, quantize: bool) -> list[Tensor]:
    """All that attention computes, forward and backward."""
    q, q_rope, kv, k_rope = (t.detach().requires_grad_() for t in inputs)
    place = [t.requires_grad_() for t in place_of(matrix(kv))] if quantize else []
    given = States(kv, None, RowQ(*place)) if quantize else kv
    bounds = find_documents(ragged_ids(kv.shape[1])) if documents else None
    out = latent_attention(q, q_rope, given, k_rope, 192**-0.5, bounds, quantize=quantize)
    values, rows = (out.values, out.rows) if isinstance(out, States) else (out, None)
    assert (rows is not None) == quantize
    made = [values.detach(), *(rows.parts if rows else ())]
    values.backward(torch.sin(torch.arange(values.numel(), device="cuda")).view_as(values).to(values.dtype))
    gradients = [t.grad for t in (q, q_rope, k_rope, *(place or (kv,)))]
    assert all(g is not None for g in gradients)
    return made + [g for g in gradients if g is not None]


@pytest.mark.parametrize("backend", ["gluon"])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("programs", [1, 3, 39])
@pytest.mark.usefixtures("needs_the_backend")
def test_any_number_of_programs_computes_the_same(
    programs: int, quantize: bool, documents: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 tiles each takes all, some, or one and one of them two."""
    inputs = latent_case(640)
    with registry.override("latent_attention", backend):
        monkeypatch.setattr(registry, "multiprocessors", lambda _: 40)
        expected = results(inputs, documents, quantize)
        monkeypatch.setattr(registry, "multiprocessors", lambda _: programs)
        found = results(inputs, documents, quantize)
    for a, b in zip(found, expected, strict=True):
        assert same_bits(a, b)


@pytest.mark.parametrize("backend", ["gluon"])
@pytest.mark.usefixtures("needs_the_backend")
def test_a_recorded_graph_counts_tiles_anew(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "multiprocessors", lambda _: 3)
    inputs = latent_case(640)
    with registry.override("latent_attention", backend):
        expected = results(inputs, documents=True, quantize=True)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = results(inputs, documents=True, quantize=True)
    for _ in range(2):
        for t in found:
            t.view(torch.uint8).fill_(0xFF)
        graph.replay()
        for a, b in zip(found, expected, strict=True):
            assert same_bits(a, b)


@pytest.mark.parametrize("backend", ["gluon", "triton"])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.usefixtures("needs_the_backend")
def test_latent_attention_quantises_what_it_computes(nan: bool, documents: bool, backend: str) -> None:
    size = 640
    bounds = find_documents(ragged_ids(size)) if documents else None
    q, q_rope, kv, k_rope = latent_case(size)
    if nan:
        # All values of one head, some of another: a token's output is nothing but NaN, or numbers too.
        kv[0, 3, 1, 128:] = float("nan")
        kv[1, 5, 2, 200:] = float("nan")
    place = [t.requires_grad_() for t in place_of(matrix(kv))]
    given = States(kv.detach().requires_grad_(), None, RowQ(*place))
    with registry.override("latent_attention", backend):
        leaf = kv.detach().clone().requires_grad_()
        plain = latent_attention(q, q_rope, leaf, k_rope, 192**-0.5, bounds)
        states = latent_attention(q, q_rope, given, k_rope, 192**-0.5, bounds, quantize=True)
        up = torch.randn_like(plain)
        plain.backward(up)
        states.values.backward(up)
    assert same_bits(plain, states.values)
    assert states.rows is not None
    assert leaf.grad is not None
    for found, whole in ((states.rows.parts, plain.detach()), ([t.grad for t in place], leaf.grad)):
        expected = quantize_rows(matrix(whole))
        assert same_bits(found[0], expected.data)
        assert same_bits(found[1], expected.scale)


def off_line(t: Tensor) -> Tensor:
    """The same numbers in one piece that begins between two words."""
    return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)


@pytest.mark.parametrize("name", ["all in one piece", "spread", "between words", "one query again and again"])
def test_latent_attention_reads_operands_wherever_they_lie(name: str) -> None:
    """What TMA cannot read is read otherwise, or copied."""
    changes = {
        "all in one piece": lambda t: t.contiguous(),
        "spread": lambda t: t.repeat_interleave(2, -1)[..., ::2],
        "between words": off_line,
        "one query again and again": lambda t: t[:, :1].expand(t.shape),
    }
    # Of one key again and again gradients would be nothing but rounding.
    changed = 2 if name == "one query again and again" else 4
    inputs = [changes[name](t) if i < changed else t for i, t in enumerate(latent_case(256))]
    found = find_documents(ragged_ids(256))
    found = dataclasses.replace(found, starts=off_line(found.starts))
    leaves, exact = (
        [t.to(d).detach().requires_grad_() for t in inputs] for d in (inputs[0].dtype, torch.float64)
    )
    out, expected = (latent_attention(*given, 192**-0.5, found) for given in (leaves, exact))
    up = off_line(torch.randn_like(out))
    out.backward(up)
    expected.backward(up.double())
    assert relative_error(out, expected) < 1e-2
    for a, b in zip(leaves, exact, strict=True):
        assert relative_error(a.grad, b.grad) < 1e-2


@pytest.mark.parametrize("size", [700, 1024])
def test_latent_attention_repeats(size: int) -> None:
    found, results = find_documents(ragged_ids(size)), []
    inputs = latent_case(size)
    for _ in range(2):
        leaves = [t.detach().clone().requires_grad_() for t in inputs]
        out = latent_attention(*leaves, 0.07, found)
        out.backward(torch.ones_like(out))
        results.append((out, *(t.grad for t in leaves)))
    for a, b in zip(*results, strict=True):
        assert same_bits(a, b)
