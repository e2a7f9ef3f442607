"""The ops of one micro-batch, piece by piece: forward and backward, in FP8, as a model calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..adamw import adamw_step
from ..attention import latent_attention
from ..cross_entropy import linear_cross_entropy
from ..embedding import embedding
from ..feed_forward import expert_feed_forward, feed_forward
from ..gemm import accumulate_in_place, joint_linear, linear
from ..gradient_norm import gradient_norm
from ..mla import rotate_heads
from ..norm import add_rms_norm, add_rms_norm_quantize, rms_norm
from ..quantize import quantize_rows, quantize_weight
from ..route import balance_loss, route, route_tables, router_logits
from ..states import Combination, Spread, States, place_of, reads_rows, spread_of, without_memory
from ..types import Groups, RowQ
from .shapes import Shape

ROW_TOKENS = 4096
PRODUCTS, ELEMENTWISE, OPTIMIZER = "FP8 products", "element-wise, routing", "optimizer"


@dataclass(frozen=True)
class Piece:
    """Some ops of a step, with what they need already on the device."""

    part: str
    """PRODUCTS with what stands between them, or what it is all of."""
    name: str
    count: float
    """Of them in a micro-batch; for the optimizer, of the timed parameters in all."""
    call: Callable[[], object]


def pieces(shape: Shape, tokens: int, row_tokens: int = ROW_TOKENS) -> Iterator[Piece]:
    """One after the other, so that each can be freed before the next; on the default device."""
    layers = shape.moe_layers + shape.dense_layers
    yield _embedding(shape, tokens)
    yield _norms(shape, tokens, shape.dense_layers, keep=False)
    yield _norms(shape, tokens, shape.moe_layers, keep=False, combines=True)
    yield _norms(shape, tokens, layers, keep=True)
    yield _projections(shape, tokens, layers)
    yield _core(shape, tokens, row_tokens, layers)
    yield _router(shape, tokens, row_tokens)
    yield _experts(shape, tokens)
    yield _dense(shape, tokens)
    yield _head(shape, tokens)
    yield from _optimizer(shape)


def parameters(shape: Shape) -> int:
    """Of the whole model, norms left out."""
    d, heads = shape.hidden, shape.heads
    attention = d * (heads * (shape.nope + shape.rope) + shape.latent + shape.rope)
    attention += heads * (shape.latent * (shape.nope + shape.value) + shape.value * d)
    moe = 3 * d * shape.width * (shape.experts + shape.shared) + d * shape.experts
    layers = shape.moe_layers + shape.dense_layers
    ends = 2 * shape.vocabulary * d
    return layers * attention + shape.moe_layers * moe + shape.dense_layers * 3 * d * shape.dense_width + ends


def _rows(tokens: int, shape: Shape) -> list[Tensor]:
    return [_activation(tokens, shape.hidden)]


def _activation(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.bfloat16).requires_grad_()


def _weight(*shape: int) -> Tensor:
    """A master weight whose gradient is there already, to be added to."""
    w: Tensor = torch.randn(shape).mul_(shape[-1] ** -0.5).requires_grad_()
    w.grad = torch.zeros_like(w)
    accumulate_in_place([w])
    return w


def _piece(
    part: str,
    name: str,
    count: float,
    forward: Callable[..., Sequence[Tensor | States | Spread]],
    inputs: list[Tensor],
) -> Piece:
    """``forward`` of ``inputs`` and its backward pass, from gradients made beforehand.

    A gradient comes quantised, or as experts' rows, where the model's would. Inputs are leaves.
    """
    ups = [up for y in forward(*inputs) for up in _gradients_of(y)]

    def call() -> None:
        for t in inputs:
            t.grad = None
        ends = [end for y in forward(*inputs) for end in _ends_of(y)]
        torch.autograd.backward(ends, ups)

    return Piece(part, name, count, call)


def _ends_of(y: Tensor | States | Spread) -> Sequence[Tensor]:
    if isinstance(y, Spread):
        return y.parts
    given = States(y) if isinstance(y, Tensor) else y
    return (given.values,) if given.gradient is None else given.gradient.parts


def _gradients_of(y: Tensor | States | Spread) -> Sequence[Tensor]:
    if isinstance(y, Spread):
        tokens = y.places.shape[0]
        token_pos = torch.randperm(y.places.numel() // 4).int().view(tokens, -1)
        return Spread.gradients(torch.randn_like(y.rows), token_pos)
    given = States(y) if isinstance(y, Tensor) else y
    up = torch.randn_like(given.values)
    return (up,) if given.gradient is None else quantize_rows(up.view(-1, up.shape[-1])).parts


def _states(x: Tensor) -> tuple[list[Tensor], Callable[..., States]]:
    """The leaves of normed states as FP8 products read them, and what makes states of those leaves."""
    if not reads_rows("fp8"):
        return [x], States
    rows = quantize_rows(x.detach())
    return [x, without_memory(x.detach()).requires_grad_()], lambda x, second: States(x, rows, None, second)


def _taken(y: Tensor) -> tuple[list[Tensor], Callable[..., States]]:
    """The leaves of a product's result, whose gradient is taken quantised if FP8 products do."""
    if not reads_rows("fp8"):
        return [y], States
    matrix = y.detach().view(*y.shape[:-2], -1).flatten(0, -2) if y.ndim == 4 else y.detach()
    place = [t.requires_grad_() for t in place_of(matrix)]
    return [y, *place], lambda y, data, scale: States(y, None, RowQ(data, scale))


def _embedding(shape: Shape, tokens: int) -> Piece:
    w, ids = _weight(shape.vocabulary, shape.hidden), torch.randint(0, shape.vocabulary, (tokens,))
    return _piece(ELEMENTWISE, "embedding", 1, lambda: [embedding(ids, w, torch.bfloat16)], [])


def _norms(shape: Shape, tokens: int, count: int, keep: bool, combines: bool = False) -> Piece:
    """The sum and norm before attention, or before experts, whose router reads the norm's values.

    If it ``combines``, it also makes the sum of the experts before it, which their op does in recipe v3.
    """
    w = torch.ones(shape.hidden, requires_grad=True)
    x = _activation(tokens, shape.hidden)
    experts = (_groups(shape, tokens).n_rows, shape.chosen) if keep else None
    inputs, summand = _taken(_activation(tokens, shape.hidden))
    due = None
    if combines and reads_rows("fp8"):
        groups, p = _groups(shape, tokens), torch.rand(tokens, shape.chosen)
        y = torch.randn(groups.n_rows, shape.hidden, dtype=torch.bfloat16)
        due = Combination(y, p, groups, torch.randn(tokens, shape.hidden, dtype=torch.bfloat16))

    def forward(x: Tensor, *delta: Tensor) -> Sequence[Tensor | Spread]:
        if not reads_rows("fp8"):
            return add_rms_norm(x, delta[0], w, 1e-6)
        added = replace(summand(*delta), combination=due)
        total, states = add_rms_norm_quantize(x, added, w, 1e-6, keep, experts)
        return total, states.values, *(y for y in (states.second, states.spread) if y is not None)

    name = "residual sum and norm" + (", kept" if keep else ", of experts" if combines else "")
    return _piece(ELEMENTWISE, name, count, forward, [x, *inputs])


def _projections(shape: Shape, tokens: int, layers: int) -> Piece:
    """All products of attention, with the latent's norm and the rotations: the core is left out."""
    d, heads, head = shape.hidden, shape.heads, shape.nope + shape.rope
    q_w, a_w = _weight(heads * head, d), _weight(shape.latent + shape.rope, d)
    b_w, o_w = _weight(heads * (shape.nope + shape.value), shape.latent), _weight(d, heads * shape.value)
    norm = torch.ones(shape.latent, requires_grad=True)
    angle = torch.rand(1, tokens, shape.rope)
    cos, sin = angle.cos(), angle.sin()
    inputs, normed = _states(_activation(tokens, d))
    mixed = _activation(tokens, heads * shape.value)
    rows = quantize_rows(mixed.detach()) if reads_rows("fp8") else None

    def forward(mixed: Tensor, *x: Tensor) -> Sequence[Tensor | States]:
        q, joint = joint_linear(normed(*x), (q_w, a_w), "fp8")
        latent, key = torch.split(joint.values, [shape.latent, shape.rope], -1)
        by_head = States(q.values.view(1, -1, heads, head), None, q.gradient)
        parts = rotate_heads(by_head, key[None], cos, sin)
        if rows is None:
            of_latent = States(rms_norm(latent, norm, 1e-6))
        else:
            _, of_latent = add_rms_norm_quantize(latent, None, norm, 1e-6, keep=False)
        return *parts, linear(of_latent, b_w, "fp8"), linear(States(mixed, rows), o_w, "fp8")

    name = "attention projections, RoPE"
    return _piece(PRODUCTS, name, layers, forward, [mixed, *inputs])


def _core(shape: Shape, tokens: int, row_tokens: int, layers: int) -> Piece:
    rows, heads = (tokens // row_tokens, row_tokens), shape.heads
    q, q_rope = (_activation(*rows, heads, size) for size in (shape.nope, shape.rope))
    k_rope, scale = _activation(*rows, shape.rope), (shape.nope + shape.rope) ** -0.5
    inputs, taken = _taken(_activation(*rows, heads, shape.nope + shape.value))

    def forward(q: Tensor, q_rope: Tensor, k_rope: Tensor, *kv: Tensor) -> Sequence[Tensor]:
        return (latent_attention(q, q_rope, taken(*kv), k_rope, scale, quantize=reads_rows("fp8")).values,)

    return _piece("attention core", "attention core", layers, forward, [q, q_rope, k_rope, *inputs])


def _router(shape: Shape, tokens: int, row_tokens: int) -> Piece:
    w = _weight(shape.experts, shape.hidden)
    bias = torch.zeros(shape.experts)
    rows = (tokens // row_tokens, row_tokens, -1)

    def forward(x: Tensor) -> Sequence[Tensor]:
        choice = route(router_logits(x, w), bias, shape.groups, shape.kept_groups, shape.chosen, 1.0)
        route_tables(choice.idx, shape.experts)
        return [choice.p + balance_loss(choice.scores.view(rows), choice.highest.view(rows)).sum()]

    return _piece(ELEMENTWISE, "router, tables, balance", shape.moe_layers, forward, _rows(tokens, shape))


def _groups(shape: Shape, tokens: int) -> Groups:
    """Choices are uneven by about 30 %."""
    weight = 1 + 0.6 * (torch.rand(shape.experts) - 0.5)
    idx = torch.multinomial(weight.expand(tokens, shape.experts), shape.chosen).int()
    return route_tables(idx, shape.experts)


def _experts(shape: Shape, tokens: int) -> Piece:
    groups = _groups(shape, tokens)
    gate_up = _weight(shape.experts, 2 * shape.width, shape.hidden)
    down = _weight(shape.experts, shape.hidden, shape.width)
    width = shape.shared * shape.width
    shared = _weight(2 * width, shape.hidden), _weight(shape.hidden, width)

    inputs, normed = _states(_activation(tokens, shape.hidden))
    spread: tuple[Tensor, ...] = ()
    if reads_rows("fp8"):
        spread = tuple(t.requires_grad_() for t in spread_of(inputs[0].detach(), groups.n_rows, shape.chosen))

    def forward(p: Tensor, *x: Tensor) -> Sequence[States]:
        given = replace(normed(*x[: len(inputs)]), spread=Spread(*spread) if spread else None)
        return [expert_feed_forward(given, p, gate_up, down, groups, "fp8", shared)]

    p = torch.rand(tokens, shape.chosen, requires_grad=True)
    name = "routed and shared experts"
    return _piece(PRODUCTS, name, shape.moe_layers, forward, [p, *inputs, *spread])


def _dense(shape: Shape, tokens: int) -> Piece:
    gate_up, down = _weight(2 * shape.dense_width, shape.hidden), _weight(shape.hidden, shape.dense_width)
    inputs, normed = _states(_activation(tokens, shape.hidden))

    def forward(*x: Tensor) -> Sequence[States]:
        return [feed_forward(normed(*x), gate_up, down, "fp8")]

    return _piece(PRODUCTS, "dense layer", shape.dense_layers, forward, inputs)


def _head(shape: Shape, tokens: int) -> Piece:
    w = _weight(shape.vocabulary, shape.hidden)
    target = torch.randint(0, shape.vocabulary, (tokens,))
    return _piece(
        "head",
        "output layer and loss",
        1,
        lambda x: [linear_cross_entropy(x, w, target, precision="fp8")],
        _rows(tokens, shape),
    )


def _optimizer(shape: Shape) -> Iterator[Piece]:
    """AdamW of what FP8 products read, by one stack of experts; of embedding and output layer, by a part of
    them; and the norm of all gradients.
    """
    whole, ends = parameters(shape), 2 * shape.vocabulary * shape.hidden
    stack = (shape.experts, 2 * shape.width, shape.hidden)
    yield _update("adamw with FP8 copies", stack, whole - ends, quantize=True)
    yield _update("adamw, embedding and output", (shape.vocabulary, shape.hidden), ends, quantize=False)
    grads = [torch.randn(stack)]
    count = whole / grads[0].numel()
    yield Piece(OPTIMIZER, "gradient norm", count, lambda: gradient_norm(grads))


def _update(name: str, size: tuple[int, ...], count: int, quantize: bool) -> Piece:
    """Of ``count`` parameters, by a tensor of ``size``."""
    p, grad = torch.randn(size), torch.randn(size)
    m, v = (torch.zeros(size, dtype=torch.bfloat16) for _ in range(2))
    copy = quantize_weight(p) if quantize else p.bfloat16()

    def call() -> None:
        adamw_step([p], [grad], [m], [v], 1e-4, copies=[copy])

    return Piece(OPTIMIZER, name, count / p.numel(), call)
