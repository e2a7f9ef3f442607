"""The attention core with DeepSeek-V3's head sizes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ..attention import find_documents, latent_attention
from .case import ATTENTION_GATE, Answer, Case, Contender, ours, randn, using

_NOPE, _ROPE, _VALUE = 128, 64, 128
_SCALE = (_NOPE + _ROPE) ** -0.5
WHOLE_ROWS, MASKED = "cuDNN, whole rows", "SDPA, written mask"


def core(batch: int, length: int, heads: int, documents: int) -> Case:
    """Forward and backward, of whole rows or of packed documents."""
    widths = (_NOPE, _ROPE, _NOPE + _VALUE)
    parts = [randn(batch, length, heads, width) for width in widths] + [randn(batch, length, _ROPE)]
    inputs = [t.requires_grad_() for t in parts]
    q, q_rope, kv, k_rope = inputs
    up = randn(batch, length, heads, _VALUE)
    ids = torch.randint(0, documents, (batch, length)).sort(1).values
    found = find_documents(ids) if documents > 1 else None

    def run(masks: bool) -> tuple[Tensor, ...]:
        out = latent_attention(q, q_rope, kv, k_rope, _SCALE, found if masks else None)
        return out, *torch.autograd.grad(out, inputs, up)

    def joined() -> Tensor:
        return torch.cat([t.detach().flatten() for t in run(True)])

    # The library takes one key a head: it is given the copies that it needs, and a written mask.
    library = partial(using, "latent_attention", "reference")
    kernel = partial(using, "latent_attention", "triton")
    answer = Answer(library(joined), ATTENTION_GATE, kernel(joined))
    contenders = [Contender(WHOLE_ROWS, library(partial(run, False)))]
    if found is not None:
        contenders.append(Contender(MASKED, library(partial(run, True))))
    contenders.append(ours("triton", kernel(partial(run, True)), answer))
    pairs = sum(int((ids == n).sum(1).square().sum()) for n in range(documents)) / 2
    moved = 4.0 * sum(t.numel() for t in (*inputs, up)) + 2.0 * up.numel()
    return Case("TFLOP/s", 2.0 * pairs * heads * (_NOPE + _ROPE + _VALUE) * 3.5, moved, contenders)


def causal_core(batch: int, length: int, heads: int) -> Case:
    """cuDNN's core alone on whole rows, forward: what document masks are measured against."""
    q, k = (randn(batch, heads, length, _NOPE + _ROPE) for _ in range(2))
    v = randn(batch, heads, length, _VALUE)
    call = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
    flops = float(batch * heads * length * length * (_NOPE + _ROPE + _VALUE))
    moved = 2.0 * sum(t.numel() for t in (q, k, v, v))
    return Case("TFLOP/s", flops, moved, [Contender("sdpa", call)])
