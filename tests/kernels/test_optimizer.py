"""AdamW and the norm of gradients, on a CPU, beside torch's."""

from __future__ import annotations

import pytest
import torch

from penstock.kernels.adamw import adamw_step
from penstock.kernels.gradient_norm import gradient_norm
from penstock.kernels.numeric import relative_error, same_bits


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_equals_torchs(weight_decay: float) -> None:
    ours, theirs = torch.randn(20, 30), None
    theirs = ours.clone().requires_grad_()
    optimizer = torch.optim.AdamW([theirs], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=weight_decay)
    m, v = torch.zeros_like(ours), torch.zeros_like(ours)
    for step in range(1, 11):
        grad = torch.randn(20, 30)
        theirs.grad = grad * 0.5
        optimizer.step()
        clip = torch.tensor([0.5]) if step % 2 else 0.5
        adamw_step([ours], [grad], [m], [v], 1e-2, (0.9, 0.95), 1e-8, weight_decay, step, clip)
        assert relative_error(ours, theirs) < 1e-6


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_adamw_reads_numbers_from_tensors_as_from_the_host(shape: tuple[int, ...]) -> None:
    """Also the step, whose first corrections are small differences, and what is written there afterwards."""
    start, grads = torch.randn(300), torch.randn(20, 300)
    states = [[start.clone(), torch.zeros(300), torch.zeros(300)] for _ in range(2)]
    held = torch.zeros(shape), torch.zeros(shape, dtype=torch.int64), torch.zeros(shape)
    for i, grad in enumerate(grads):
        given = 0.1 / (i + 1), i + 1, 0.9**i
        for tensor, number in zip(held, given, strict=True):
            tensor.fill_(number)
        for state, (lr, step, clip) in zip(states, (given, held), strict=True):
            p, m, v = ([t] for t in state)
            adamw_step(p, [grad], m, v, lr, (0.9, 0.999), step=step, clip_coefficient=clip)
    for a, b in zip(*states, strict=True):
        assert same_bits(a, b)


def test_adamw_without_betas_is_a_step_by_the_sign() -> None:
    for step in (3, torch.tensor(3, dtype=torch.int32)):
        p, grad = torch.zeros(100), torch.randn(100)
        adamw_step([p], [grad], [torch.zeros(100)], [torch.zeros(100)], 1e-2, (0.0, 0.0), step=step)
        assert relative_error(p, -1e-2 * grad.sign()) < 1e-5  # eps


def test_adamw_keeps_its_moments_in_bfloat16() -> None:
    p, m, v = torch.randn(1000), torch.zeros(1000).bfloat16(), torch.zeros(1000).bfloat16()
    exact = [p.clone(), m.float(), v.float()]
    for step in range(1, 21):
        grad = torch.randn(1000)
        adamw_step([p], [grad], [m], [v], 1e-3, step=step)
        adamw_step(exact[:1], [grad], exact[1:2], exact[2:], 1e-3, step=step)
    assert m.dtype == v.dtype == torch.bfloat16
    assert relative_error(v, exact[2]) < 1e-2
    assert relative_error(p, exact[0]) < 1e-4


def test_gradient_norm_is_that_of_all_elements() -> None:
    grads = [torch.randn(7), torch.randn(300, 500).bfloat16(), torch.randn(40, 30).t(), torch.empty(0, 5)]
    grads.append(torch.tensor(3.0, requires_grad=True))
    exact = torch.cat([g.flatten().double() for g in grads]).norm()
    found = gradient_norm(grads)
    assert (found.dtype, found.shape, found.requires_grad) == (torch.float32, (), False)
    assert relative_error(found, exact) < 1e-7
    assert relative_error(found, torch.nn.utils.get_total_norm([g.float() for g in grads])) < 1e-5
    assert gradient_norm([]) == gradient_norm(grads[3:4]) == 0


def test_gradient_norm_is_infinite_where_second_moments_would_be() -> None:
    for count, size in ((100, 1e18), (200, 1.2e18), (400, 1e18), (1, 1e30), (1, torch.inf), (2, -torch.inf)):
        grads = [torch.full((count,), size), torch.ones(3)]
        found, theirs = gradient_norm(grads), torch.nn.utils.get_total_norm(grads)
        assert torch.isclose(found, theirs, rtol=1e-6), (count, size)
        assert found.isfinite() == (count * size**2 < torch.finfo(torch.float32).max)
    assert gradient_norm([torch.tensor([torch.inf]), torch.tensor([torch.nan, 1.0])]).isnan()
