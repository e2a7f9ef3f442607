"""What test_interpreter.py runs: all other plain Triton kernels beside their references."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import conftest  # noqa: F401  (finds penstock.kernels where penstock is not installed)
import torch
from interpreter import FLOAT32, both, cast_as_a_gpu, expect, same, with_gradients
from torch import Tensor

from penstock.kernels import registry
from penstock.kernels.adamw import adamw_step
from penstock.kernels.attention import find_documents, latent_attention, latent_triton
from penstock.kernels.cross_entropy import joint_cross_entropy
from penstock.kernels.embedding import embedding
from penstock.kernels.gradient_norm import gradient_norm, gradient_norm_triton
from penstock.kernels.mla import rotate_heads
from penstock.kernels.norm import add_rms_norm, rms_norm
from penstock.kernels.numeric import relative_error, same_bits
from penstock.kernels.permute import combine, permute
from penstock.kernels.permute.op import gather_sum
from penstock.kernels.quantize import quantize_weight
from penstock.kernels.route import balance_loss, route, route_tables, router_logits
from penstock.kernels.swiglu import swiglu


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
    attentions()
    streams()
    routing()
    moves()
    losses_and_updates()
    sums_of_gradients()
