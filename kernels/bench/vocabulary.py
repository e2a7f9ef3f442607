"""Both ends of the model: the output layer with its loss, and the gradient of the embedding."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cross_entropy import joint_cross_entropy
from ..embedding import embedding
from .case import ATTENTION_GATE, FP32_GATE, Answer, Case, Contender, fast, moving, ours, randn, using

SMALL_CHUNKS = "triton, 4096 at once"
"""Logits of half the tokens exist at once: slower, and what the bound on memory is for."""


def loss(tokens: int, hidden: int, vocabulary: int) -> Case:
    """Output layer and cross-entropy, forward and backward, beside the same two compiled."""
    x = randn(tokens, hidden).requires_grad_()
    master = (torch.randn(vocabulary, hidden) * hidden**-0.5).requires_grad_()
    w = master.detach().bfloat16().requires_grad_()
    target = torch.randint(0, vocabulary, (tokens,))

    def both(chunk: int) -> tuple[Tensor, ...]:
        total = joint_cross_entropy([x], master, [target], None, chunk, "bf16").total
        return torch.autograd.grad(total, (x, master))

    def kernel(name: str, chunk: int) -> Contender:
        call, value = partial(both, chunk), lambda: both(chunk)[0]
        expected, given = (using("cross_entropy", backend, value) for backend in ("reference", "triton"))
        return ours(name, using("cross_entropy", "triton", call), Answer(expected, ATTENTION_GATE, given))

    plain = fast(_plain)

    def peer() -> object:
        return torch.autograd.grad(plain(x, w, target), (x, w))

    # Compiled in a quick run as well: the goal is set by it.
    contenders = [Contender("torch.compile", peer), kernel("triton", 8192), kernel(SMALL_CHUNKS, 4096)]
    moved = 8.0 * tokens * vocabulary + 8.0 * vocabulary * hidden
    return Case("TFLOP/s", 6.0 * tokens * hidden * vocabulary, moved, contenders)


def embedding_gradient(tokens: int, hidden: int, vocabulary: int) -> Case:
    """Gradient of the embedding; frequencies of tokens fall as in text."""
    ids = (torch.rand(tokens) ** 4 * vocabulary).long()
    w, up = torch.randn(vocabulary, hidden, requires_grad=True), randn(tokens, hidden)

    def both() -> Tensor:
        return torch.autograd.grad(embedding(ids, w, torch.bfloat16), w, up)[0]

    def library() -> Tensor:
        return torch.autograd.grad(F.embedding(ids, w), w, up.float())[0]

    distinct = int((torch.bincount(ids) > 0).sum())
    # Rows forward and their gradient; the gradient of the table is zeros but for the tokens that came.
    moved = 8.0 * tokens * hidden + 4.0 * (vocabulary + distinct) * hidden
    peer = Contender("F.embedding, float32", library)
    return moving(moved, float(tokens * hidden), "embedding", both, both, FP32_GATE, peer)


def _plain(x: Tensor, w: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, w).float(), target, reduction="sum")
