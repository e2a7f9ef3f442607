"""The kernels of one micro-batch, piece by piece: the ops a model calls, forward and backward, in FP8.

Each piece runs by itself from a cold cache, as a CUDA graph, with gradients added in place; its time is
multiplied by how often a micro-batch has it. Not included: gradient norm, masks of padding, the last norm
and the transposes of quantised weights. ``benches/micro_batch.py`` measures the whole model.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..adamw import adamw_step
from ..attention import latent_attention
from ..cross_entropy import linear_cross_entropy
from ..embedding import embedding
from ..feed_forward import expert_feed_forward, feed_forward
from ..gemm import accumulate_in_place, joint_linear, linear
from ..mla import rotate_heads
from ..norm import add_rms_norm, rms_norm
from ..registry import RECIPE_ENVIRONMENT, RECIPES
from ..route import balance_loss, route, route_tables, router_logits
from .shapes import SHAPES, Shape
from .timing import time_burst

ROW_TOKENS = 4096
OPTIMIZER = "optimizer"


@dataclass(frozen=True)
class Piece:
    """Some ops of a step, with what they need already on the device."""

    part: str
    name: str
    count: float
    """Of them in a micro-batch; for the optimizer, of the timed parameters in all."""
    call: Callable[[], object]


def pieces(shape: Shape, tokens: int, row_tokens: int = ROW_TOKENS) -> Iterator[Piece]:
    """One after the other, so that each can be freed before the next; on the default device."""
    layers = shape.moe_layers + shape.dense_layers
    yield _embedding(shape, tokens)
    yield _norms(shape, tokens, 2 * layers)
    yield _projections(shape, tokens, layers)
    yield _core(shape, tokens, row_tokens, layers)
    yield _router(shape, tokens, row_tokens)
    yield _experts(shape, tokens)
    dense = _feed_forward(shape.hidden, shape.dense_width)
    yield _piece("GEMM, SwiGLU, casts", "dense layer", shape.dense_layers, dense, _rows(tokens, shape))
    yield _head(shape, tokens)
    yield _optimizer(shape)


def parameters(shape: Shape) -> int:
    """Of the whole model, norms left out."""
    d, heads = shape.hidden, shape.heads
    attention = d * (heads * (shape.nope + shape.rope) + shape.latent + shape.rope)
    attention += heads * (shape.latent * (shape.nope + shape.value) + shape.value * d)
    moe = 3 * d * shape.width * (shape.experts + shape.shared) + d * shape.experts
    layers = shape.moe_layers + shape.dense_layers
    ends = 2 * shape.vocabulary * d
    return layers * attention + shape.moe_layers * moe + shape.dense_layers * 3 * d * shape.dense_width + ends


def main(arguments: Sequence[str]) -> int:
    """Print the table; the exit status is 2 without a GPU."""
    options = _parser().parse_args(arguments)
    if not torch.cuda.is_available():
        print("the kernel benchmark needs a CUDA GPU, and torch sees none", file=sys.stderr)
        return 2
    os.environ[RECIPE_ENVIRONMENT] = options.recipe
    shape, sums = SHAPES[options.shape], dict[str, float]()
    print(
        f"{torch.cuda.get_device_name()}, {options.shape}, {options.tokens} tokens, recipe {options.recipe}"
    )
    with torch.device("cuda"):
        for piece in pieces(shape, options.tokens):
            each = time_burst(piece.call)
            sums[piece.part] = sums.get(piece.part, 0.0) + each * piece.count
            print(f"  {piece.name:32s} {piece.count:7.1f} x {each:8.3f} ms = {each * piece.count:7.1f} ms")
            del piece
            torch.cuda.empty_cache()
    print(summary(shape, options.tokens, sums))
    return 0


def summary(shape: Shape, tokens: int, sums: dict[str, float]) -> str:
    """The parts beside their predictions, which are for 16,384 tokens, and the sum beside its goal."""
    scale = tokens / 16384
    lines = []
    micro = sum(ms for part, ms in sums.items() if part != OPTIMIZER)
    for part, ms in [*sums.items(), ("micro-batch", micro)]:
        predicted = shape.predicted_ms.get(part)
        factor = 1.0 if part == OPTIMIZER else scale
        beside = "" if predicted is None else f"   predicted {predicted * factor:.1f}"
        lines.append(f"{part:32s} {ms:7.1f} ms{beside}")
    verdict = "met" if micro <= shape.goal_ms * scale else "missed"
    return "\n".join([*lines, f"goal {shape.goal_ms * scale:.1f} ms: {verdict}"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="penstock.kernels.bench step", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--tokens", type=int, default=16384, help=f"a multiple of {ROW_TOKENS}")
    parser.add_argument("--recipe", choices=RECIPES, default="shift")
    return parser


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


def _piece(part: str, name: str, count: float, forward: Callable[..., Tensor], inputs: list[Tensor]) -> Piece:
    """``forward`` of ``inputs`` and its backward pass, from a gradient made beforehand."""
    with torch.no_grad():
        up = torch.randn_like(forward(*inputs))

    def call() -> None:
        for t in inputs:
            t.grad = None
        forward(*inputs).backward(up)  # type: ignore[no-untyped-call]

    return Piece(part, name, count, call)


def _embedding(shape: Shape, tokens: int) -> Piece:
    w, ids = _weight(shape.vocabulary, shape.hidden), torch.randint(0, shape.vocabulary, (tokens,))
    return _piece("embedding", "embedding", 1, lambda: embedding(ids, w, torch.bfloat16), [])


def _norms(shape: Shape, tokens: int, count: int) -> Piece:
    w = torch.ones(shape.hidden, requires_grad=True)

    def forward(x: Tensor, delta: Tensor) -> Tensor:
        return torch.stack(add_rms_norm(x, delta, w, 1e-6))

    inputs = [*_rows(tokens, shape), *_rows(tokens, shape)]
    return _piece("norms, residual", "residual sum and norm", count, forward, inputs)


def _projections(shape: Shape, tokens: int, layers: int) -> Piece:
    """All products of attention, with the latent's norm and the rotations: the core is left out."""
    d, heads, head = shape.hidden, shape.heads, shape.nope + shape.rope
    q_w, a_w = _weight(heads * head, d), _weight(shape.latent + shape.rope, d)
    b_w, o_w = _weight(heads * (shape.nope + shape.value), shape.latent), _weight(d, heads * shape.value)
    norm = torch.ones(shape.latent, requires_grad=True)
    angle = torch.rand(1, tokens, shape.rope)
    cos, sin = angle.cos(), angle.sin()

    def forward(x: Tensor, mixed: Tensor) -> Tensor:
        q, joint = joint_linear(x, (q_w, a_w), "fp8")
        latent, key = torch.split(joint, [shape.latent, shape.rope], -1)
        parts = rotate_heads(q.view(1, -1, heads, head), key[None], cos, sin)
        kv = linear(rms_norm(latent, norm, 1e-6), b_w, "fp8")
        out = linear(mixed, o_w, "fp8")
        return torch.cat([*(t.reshape(tokens, -1) for t in parts), kv, out], -1)

    inputs = [_activation(tokens, d), _activation(tokens, heads * shape.value)]
    return _piece("GEMM, SwiGLU, casts", "attention projections, RoPE", layers, forward, inputs)


def _core(shape: Shape, tokens: int, row_tokens: int, layers: int) -> Piece:
    rows, heads = (tokens // row_tokens, row_tokens), shape.heads
    inputs = [_activation(*rows, heads, size) for size in (shape.nope, shape.rope, shape.nope + shape.value)]
    inputs.append(_activation(*rows, shape.rope))
    scale = (shape.nope + shape.rope) ** -0.5

    def forward(q: Tensor, q_rope: Tensor, kv: Tensor, k_rope: Tensor) -> Tensor:
        return latent_attention(q, q_rope, kv, k_rope, scale)

    return _piece("attention core", "attention core", layers, forward, inputs)


def _router(shape: Shape, tokens: int, row_tokens: int) -> Piece:
    w = _weight(shape.experts, shape.hidden)
    bias = torch.zeros(shape.experts)
    rows = (tokens // row_tokens, row_tokens, -1)

    def forward(x: Tensor) -> Tensor:
        choice = route(router_logits(x, w), bias, shape.groups, shape.kept_groups, shape.chosen, 1.0)
        route_tables(choice.idx, shape.experts)
        return choice.p + balance_loss(choice.scores.view(rows), choice.highest.view(rows)).sum()

    return _piece("routing", "router, tables, balance", shape.moe_layers, forward, _rows(tokens, shape))


def _experts(shape: Shape, tokens: int) -> Piece:
    """Choices are uneven by about 30 %."""
    weight = 1 + 0.6 * (torch.rand(shape.experts) - 0.5)
    idx = torch.multinomial(weight.expand(tokens, shape.experts), shape.chosen).int()
    groups = route_tables(idx, shape.experts)
    gate_up = _weight(shape.experts, 2 * shape.width, shape.hidden)
    down = _weight(shape.experts, shape.hidden, shape.width)
    width = shape.shared * shape.width
    shared = _weight(2 * width, shape.hidden), _weight(shape.hidden, width)

    def forward(x: Tensor, p: Tensor) -> Tensor:
        return expert_feed_forward(x, p, gate_up, down, groups, "fp8", shared)

    p = torch.rand(tokens, shape.chosen, requires_grad=True)
    inputs = [*_rows(tokens, shape), p]
    return _piece("GEMM, SwiGLU, casts", "routed and shared experts", shape.moe_layers, forward, inputs)


def _feed_forward(hidden: int, width: int) -> Callable[[Tensor], Tensor]:
    gate_up, down = _weight(2 * width, hidden), _weight(hidden, width)
    return lambda x: feed_forward(x, gate_up, down, "fp8")


def _head(shape: Shape, tokens: int) -> Piece:
    w = _weight(shape.vocabulary, shape.hidden)
    target = torch.randint(0, shape.vocabulary, (tokens,))
    return _piece(
        "head",
        "output layer and loss",
        1,
        lambda x: linear_cross_entropy(x, w, target, precision="fp8"),
        _rows(tokens, shape),
    )


def _optimizer(shape: Shape) -> Piece:
    """AdamW alone, over the parameters of one stack of experts."""
    size = (shape.experts, 3 * shape.width, shape.hidden)
    p, grad = torch.randn(size), torch.randn(size)
    m, v = (torch.zeros(size, dtype=torch.bfloat16) for _ in range(2))
    count = parameters(shape) / p.numel()
    return Piece(OPTIMIZER, "adamw, once a step", count, lambda: adamw_step([p], [grad], [m], [v], 1e-4))
