"""Parts of a layer, with rows that go quantised from kernel to kernel or with a cast of its own each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from penstock.kernels.attention import find_documents, latent_attention
from penstock.kernels.feed_forward import expert_feed_forward, feed_forward
from penstock.kernels.gemm import joint_linear, linear
from penstock.kernels.mla import rotate_heads
from penstock.kernels.norm import add_rms_norm_quantize
from penstock.kernels.numeric import relative_error, same_bits
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


def summed(x: Tensor, delta: Tensor | States, w: Tensor) -> Sequence[Tensor]:
    """The residual sum behind a layer and its norm."""
    x, states = add_rms_norm_quantize(x, delta, w, EPS)
    return x, states.values


def normed(
    x: Tensor, w: Tensor, keep: bool, fused: bool, experts: tuple[int, int] | None = None
) -> tuple[Tensor, States | Tensor]:
    """The norm with its rows, or its values alone, by the same kernel."""
    x, states = add_rms_norm_quantize(x, None, w, EPS, keep or not fused, experts if fused else None)
    return x, states if fused else states.values


def same(found: Tensor, expected: Tensor) -> bool:
    """Bit for bit; gradients of norms' weights are summed in another order where backward quantises."""
    if expected.ndim == 1:
        return relative_error(found, expected) < 1e-5
    return same_bits(found, expected)


def dense_part(
    x: Tensor, w: Tensor, gate_up: Tensor, down: Tensor, w_next: Tensor, *, fused: bool
) -> Sequence[Tensor]:
    """A norm, a feed-forward layer and the norm behind it."""
    total, h = normed(x, w, False, fused)
    return summed(total, feed_forward(h, gate_up, down, "fp8"), w_next)


def experts_part(
    x: Tensor,
    w: Tensor,
    gate_up: Tensor,
    down: Tensor,
    w_next: Tensor,
    p: Tensor,
    *shared: Tensor,
    fused: bool,
) -> Sequence[Tensor]:
    """The same with experts, and a reader of the norm's values beside them; a token is not routed."""
    idx = torch.arange(p.numel(), device=x.device).view(p.shape) * 7 % gate_up.shape[0]
    valid = torch.arange(x.shape[0], device=x.device) != 5
    groups = route_tables(idx.int(), gate_up.shape[0], valid)
    total, h = normed(x, w, True, fused, (groups.n_rows, p.shape[1]))
    values = h.values if isinstance(h, States) else h
    if isinstance(h, States):
        assert (h.spread is not None) == (torch.is_grad_enabled() and x.dtype != torch.float16)
    weights = p * values.float().mean(1, keepdim=True)
    y = expert_feed_forward(h, weights, gate_up, down, groups, "fp8", shared or None)
    if isinstance(y, States):
        assert (y.combination is not None) == torch.is_grad_enabled(), "left to the norm"
    return summed(total, y, w_next)


def joint_part(x: Tensor, w: Tensor, first: Tensor, second: Tensor, *, fused: bool) -> Sequence[Tensor]:
    """A norm and the products that read it, of which the second's gradient comes from another norm."""
    total, h = normed(x, w, False, fused)
    products = joint_linear(h, (first, second), "fp8")
    one = products[0].values if isinstance(products[0], States) else products[0]
    return one, *summed(total, products[1], w)


def attention_part(
    x: Tensor, w: Tensor, q_proj: Tensor, kv_a: Tensor, w_latent: Tensor, kv_b: Tensor, o: Tensor,
    w_next: Tensor, *, fused: bool,
) -> Sequence[Tensor]:  # fmt: skip
    """A layer of attention between its norms, two heads of 128 + 64 features; two documents a row."""
    total, h = normed(x, w, False, fused)
    q, joint = map(states_of, joint_linear(h, (q_proj, kv_a), "fp8"))
    by_head = States(q.values.unflatten(-1, (2, 192)), None, q.gradient)
    angles = torch.linspace(0, 3, x.shape[1] * 64, device=x.device).view(1, -1, 64)
    given = by_head if fused else by_head.values
    q_nope, q_rope, k_rope = rotate_heads(given, joint.values[..., 128:], angles.cos(), angles.sin())
    _, latent = normed(joint.values[..., :128], w_latent, False, fused)
    kv = states_of(linear(latent, kv_b, "fp8"))
    kv_by_head = States(kv.values.unflatten(-1, (2, 256)), None, kv.gradient)
    documents = find_documents((torch.arange(x.shape[1], device=x.device) > 4).long().expand(x.shape[:2]))
    arguments = (k_rope, 0.09, documents)
    if fused:
        mixed = latent_attention(q_nope, q_rope, kv_by_head, *arguments, quantize=True)
    else:
        mixed = States(latent_attention(q_nope, q_rope, kv_by_head.values, *arguments))
    flat = States(mixed.values.flatten(2), mixed.rows)
    return summed(total, linear(flat if fused else flat.values, o, "fp8"), w_next)


def rotation_part(x: Tensor, w: Tensor, k: Tensor, *, fused: bool) -> Sequence[Tensor]:
    """Queries of three heads, whose features do not fill their last tile; pairs of halves."""
    q = linear(States(x) if fused else x, w, "fp8")
    by_head = states_of(q).values.unflatten(-1, (3, -1))
    given = States(by_head, None, q.gradient) if isinstance(q, States) else by_head
    angles = torch.linspace(0, 3, x.shape[1] * 64, device=x.device).view(1, -1, 64)
    return rotate_heads(given, k, angles.cos(), angles.sin(), interleaved=False)


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
    wide, more_norms = torch.randn(2, tokens, size).to(dtype), [torch.rand(n) + 0.5 for n in (128, size)]
    attention = [weight(384, size), weight(192, size), more_norms[0], weight(512, 128), weight(size, 256)]
    return {
        "attention": (attention_part, [wide, norms[0], *attention, more_norms[1]]),
        "rotation": (rotation_part, [wide, weight(576, size), torch.randn(2, tokens, 64).to(dtype)]),
        "dense": (dense_part, [x, norms[0], *dense, norms[1]]),
        "experts": (experts_part, [x, norms[0], *experts, norms[1], p]),
        "experts, one shared": (experts_part, [x, norms[0], *experts, norms[1], p, *dense]),
        "joint": (joint_part, [x, norms[0], weight(192, size), weight(size, size)]),
    }
