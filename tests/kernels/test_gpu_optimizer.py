"""AdamW and the norm of gradients on a GPU: against their references, with what products read, recorded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from penstock.kernels import registry
from penstock.kernels.adamw import adamw_step
from penstock.kernels.gradient_norm import gradient_norm
from penstock.kernels.numeric import relative_error, same_bits
from penstock.kernels.quantize import quantize_weight
from penstock.kernels.types import WeightQ

pytestmark = pytest.mark.gpu


def randn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


@pytest.mark.parametrize("moments", [torch.float32, torch.bfloat16])
def test_adamw(moments: torch.dtype) -> None:
    shape, results = (300, 1001), []
    for backend in ("reference", "triton"):
        torch.manual_seed(5)
        p, m, v = (
            randn(*shape, dtype=torch.float32),
            randn(*shape, dtype=moments) * 0,
            randn(*shape, dtype=moments) * 0,
        )
        with registry.override("adamw", backend):
            for step in range(1, 5):
                adamw_step(
                    [p], [randn(*shape, dtype=torch.float32)], [m], [v], 1e-2, step=step, clip_coefficient=0.5
                )
        results.append((p, m, v))
    for a, b in zip(*results, strict=True):
        assert relative_error(b, a) < (1e-6 if moments == torch.float32 else 1e-3)


GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda g: g,
    "bf16": lambda g: g.bfloat16(),
    "of columns": lambda g: g.mT.contiguous().mT,
    "out of line": lambda g: torch.cat([g.new_zeros(1), g.flatten()])[1:].view(g.shape),
}


def emptied(copy: WeightQ) -> WeightQ:
    """A copy that holds nothing true, so that what is not written is seen."""
    for part in copy.parts:
        part.view(torch.uint8).fill_(0x5A)
    return copy


def assert_copy_of(p: Tensor, copy: WeightQ) -> None:
    expected = quantize_weight(p)
    for name in ("data", "data_t", "scale"):
        assert same_bits(getattr(copy, name), getattr(expected, name)), name


@pytest.mark.parametrize("backend", ["gluon", "triton"])
@pytest.mark.parametrize(
    ("moments", "gradient"), [(torch.float32, "plain"), *((torch.bfloat16, name) for name in GRADIENTS)]
)
@pytest.mark.parametrize("shape", [(3, 256, 640), (128, 1408), (2496, 1280), (130, 1001)])
@pytest.mark.usefixtures("needs_the_backend")
def test_adamw_writes_what_products_read(
    shape: tuple[int, ...], moments: torch.dtype, gradient: str, backend: str
) -> None:
    p = randn(*shape, dtype=torch.float32)
    given = GRADIENTS[gradient](p.sin())
    for copy in (emptied(quantize_weight(p)), p.bfloat16()):
        states = []
        for name, copied in (("reference", None), (backend, copy)):
            state = [p.clone(), (p.cos() / 9).to(moments), ((p.sin() / 9).square() + 1e-2).to(moments)]
            lists = ([t] for t in (state[0], given, *state[1:]))
            with registry.override("adamw", name):
                adamw_step(*lists, 1e-2, step=3, clip_coefficient=0.5, copies=[copied])
            states.append(state)
        for one, other in zip(*states, strict=True):
            assert relative_error(other, one) < (1e-6 if one.dtype == torch.float32 else 1e-3)
        found = states[1][0]
        if isinstance(copy, WeightQ):
            assert_copy_of(found, copy)
        else:
            assert same_bits(copy, found.bfloat16())


@pytest.mark.parametrize("backend", ["gluon", "triton"])
@pytest.mark.usefixtures("needs_the_backend")
def test_adamw_casts_weights_that_are_not_finite_and_the_smallest(backend: str) -> None:
    p = randn(256, 384, dtype=torch.float32)
    p[3, 5], p[100, 200], p[:128, 256:] = torch.nan, -torch.inf, 0.0
    p[128:, :128] *= 1e-40
    zero, copy = torch.zeros_like(p), emptied(quantize_weight(p))
    with registry.override("adamw", backend):
        adamw_step([p], [zero], [zero.bfloat16()], [zero.bfloat16()], 1e-2, copies=[copy])
    assert_copy_of(p, copy)


@pytest.mark.parametrize("backend", ["gluon", "triton"])
@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.usefixtures("needs_the_backend")
def test_a_recorded_adamw_step_takes_what_its_tensors_hold(copied: bool, backend: str) -> None:
    """Whole in a CUDA graph, the step counted in it; replays beside steps by numbers of the host's."""
    rows, moments = (130, torch.float32) if backend == "triton" else (256, torch.bfloat16)
    p, grad = (randn(rows, 256, dtype=torch.float32) for _ in range(2))
    lr, step, clip = (torch.zeros((), device="cuda", dtype=t) for t in (p.dtype, torch.int64, p.dtype))
    states = [[p.clone(), *((p * 0).to(moments) for _ in range(2))] for _ in range(2)]
    copy = quantize_weight(p) if copied else None

    def update() -> None:
        step.add_(1)
        q, m, v = ([t] for t in states[0])
        with registry.override("adamw", backend):
            adamw_step(q, [grad], m, v, lr, step=step, clip_coefficient=clip, copies=[copy])

    update()  # compiles; by a learning rate and gradients of nothing
    step.zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update()
    for i in range(1, 6):
        lr.fill_(0.1 / i)
        clip.fill_(0.9**i)
        graph.replay()
        q, m, v = ([t] for t in states[1])
        with registry.override("adamw", backend):
            adamw_step(q, [grad], m, v, 0.1 / i, step=i, clip_coefficient=0.9**i)
    assert int(step) == 5
    for a, b in zip(*states, strict=True):
        assert relative_error(a, b) < (1e-6 if a.dtype == torch.float32 else 1e-3)
    if copy is not None:
        assert same_bits(copy.data_t, quantize_weight(states[0][0]).data_t)


def test_adamw_moves_the_version_that_quantised_copies_are_keyed_on() -> None:
    p, zero = randn(64, 64, dtype=torch.float32), randn(64, 64, dtype=torch.float32) * 0
    before = p._version
    adamw_step([p], [p.clone()], [zero.clone()], [zero.clone()], 1e-2)
    assert p._version > before


def uneven_gradients() -> list[Tensor]:
    shapes = [(1280,), (1280, 640), (3, 130, 1001), (0,), (), (64, 1280), (5000, 4001), (999,), (2048, 1408)]
    grads = [torch.randn(shape, device="cuda") for shape in shapes]
    grads += [grads[1].t(), grads[1].bfloat16(), grads[0].bfloat16()]
    return grads + [torch.randn(512 * i, device="cuda") for i in range(1, 40)]  # more than one launch takes


def test_gradient_norm() -> None:
    grads = uneven_gradients()
    found = gradient_norm(grads)
    exact = torch.cat([g.flatten().double() for g in grads]).norm()
    assert (found.dtype, found.shape, found.device) == (torch.float32, (), grads[0].device)
    assert relative_error(found, exact) < 1e-7
    assert relative_error(found, torch.nn.utils.get_total_norm([g.float() for g in grads])) < 1e-5
    with registry.override("gradient_norm", "reference"):
        assert relative_error(found, gradient_norm(grads)) < 1e-7
    assert all(same_bits(gradient_norm(grads), found) for _ in range(20))


def test_gradient_norm_passes_on_what_is_not_finite() -> None:
    for place in (0, 6, 10):
        for bad in (torch.inf, torch.nan):
            grads = uneven_gradients()
            grads[place].view(-1)[-1] = bad
            found = gradient_norm(grads)
            assert bool(found.isnan()) if bad != torch.inf else float(found) == bad
    large = [torch.full((count,), 1e16, device="cuda") for count in (100, 90000)]
    assert float(gradient_norm(large)) == pytest.approx(90100**0.5 * 1e16, rel=1e-6)
    assert float(gradient_norm([*large, large[0] * 1e6])) == torch.inf
    assert float(gradient_norm([torch.empty(0, device="cuda")])) == 0


def test_a_recorded_gradient_norm_is_that_of_the_gradients_there_are() -> None:
    grads = uneven_gradients()
    gradient_norm(grads)
    graph, found = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):  # fails where the host waits
        found.append(gradient_norm(grads))
    for g in (*grads[:9], *grads[10:]):  # the one between is a view
        g.mul_(3)
    graph.replay()
    assert same_bits(found[0], gradient_norm(grads))
