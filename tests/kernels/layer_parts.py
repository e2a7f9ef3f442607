"""Parts of a layer, with rows that go quantised from kernel to kernel or with a cast of its own each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from penstock.kernels.attention import find_documents, latent_attention
from penstock.kernels.feed_forward import expert_feed_forward, feed_forward
from penstock.kernels.gemm import joint_linear, linear
from penstock.kernels.norm import add_rms_norm, add_rms_norm_quantize
from penstock.kernels.route import route_tables
from penstock.kernels.states import States, states_of

EPS = 1e-6


def results(part: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], fused: bool) -> list[Tensor]:
    """What ``part`` returns, and the gradients of its inputs."""
    given = [t.detach().clone().requires_grad_() for t in inputs]
    outputs = part(*given, fused=fused)
    ups = [y.detach().cos() for y in outputs]
    torch.autograd.backward(outputs, ups)
    return [*outputs, *(t.grad for t in given)]


def normed(x: Tensor, w: Tensor, keep: bool, fused: bool) -> tuple[Tensor, States | Tensor]:
    return add_rms_norm_quantize(x, None, w, EPS, keep) if fused else add_rms_norm(x, None, w, EPS)


def dense_part(
    x: Tensor, w: Tensor, gate_up: Tensor, down: Tensor, w_next: Tensor, *, fused: bool
) -> Sequence[Tensor]:
    """A norm, a feed-forward layer and the norm behind it."""
    total, h = normed(x, w, False, fused)
    return add_rms_norm(total, feed_forward(h, gate_up, down, "fp8"), w_next, EPS)


def experts_part(
    x: Tensor, w: Tensor, gate_up: Tensor, down: Tensor, w_next: Tensor, p: Tensor, *, fused: bool
) -> Sequence[Tensor]:
    """The same with experts, and a reader of the norm's values beside them."""
    idx = torch.arange(p.numel(), device=x.device).view(p.shape) * 7 % gate_up.shape[0]
    groups = route_tables(idx.int(), gate_up.shape[0])
    total, h = normed(x, w, True, fused)
    values = h.values if isinstance(h, States) else h
    y = expert_feed_forward(h, p * values.float().mean(1, keepdim=True), gate_up, down, groups, "fp8")
    return add_rms_norm(total, y, w_next, EPS)


def joint_part(x: Tensor, w: Tensor, first: Tensor, second: Tensor, *, fused: bool) -> Sequence[Tensor]:
    """A norm and the products that read it, of which the second's gradient comes from another norm."""
    total, h = normed(x, w, False, fused)
    products = joint_linear(h, (first, second), "fp8")
    one = products[0].values if isinstance(products[0], States) else products[0]
    return one, *add_rms_norm(total, products[1], w, EPS)


def attention_part(
    x: Tensor, latent: Tensor, w: Tensor, kv_b: Tensor, q: Tensor, q_rope: Tensor, k_rope: Tensor, o: Tensor,
    w_next: Tensor, *, fused: bool,
) -> Sequence[Tensor]:  # fmt: skip
    """From the latent to the norm behind the layer; two documents a row."""
    _, h = normed(latent, w, False, fused)
    kv = states_of(linear(h, kv_b, "fp8"))
    by_head = States(kv.values.unflatten(-1, (q.shape[2], -1)), None, kv.gradient)
    documents = find_documents((torch.arange(q.shape[1], device=q.device) > 4).long().expand(q.shape[:2]))
    arguments = (k_rope, 0.09, documents)
    if fused:
        mixed = latent_attention(q, q_rope, by_head, *arguments, quantize=True)
    else:
        mixed = States(latent_attention(q, q_rope, by_head.values, *arguments))
    flat = States(mixed.values.flatten(2), mixed.rows)
    return add_rms_norm(x, linear(flat if fused else flat.values, o, "fp8"), w_next, EPS)


def cases(
    tokens: int, size: int, dtype: torch.dtype = torch.bfloat16
) -> dict[str, tuple[Callable[..., Sequence[Tensor]], list[Tensor]]]:
    """Each part with inputs, on the default device; attention has twice the tokens."""

    def weight(*shape: int) -> Tensor:
        return torch.randn(shape) / shape[-1] ** 0.5

    x, norms = torch.randn(tokens, size).to(dtype), [torch.rand(size) + 0.5 for _ in range(2)]
    dense = [weight(2 * size, size), weight(size, size)]
    experts = [weight(8, 256, size), weight(8, size, 128)]
    p = torch.rand(tokens, 2)
    wide = [torch.randn(2, tokens, *shape).to(dtype) for shape in ((size,), (256,), (2, 128), (2, 64), (64,))]
    projections = [weight(512, 256), weight(size, 256)]
    return {
        "attention": (
            attention_part,
            [*wide[:2], torch.rand(256) + 0.5, projections[0], *wide[2:], projections[1], norms[0]],
        ),
        "dense": (dense_part, [x, norms[0], *dense, norms[1]]),
        "experts": (experts_part, [x, norms[0], *experts, norms[1], p]),
        "joint": (joint_part, [x, norms[0], weight(192, size), weight(size, size)]),
    }
