"""The attention core with DeepSeek-V3's head sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..attention import attention, find_documents, latent_attention
from .case import ATTENTION_GATE, Answer, Case, Contender, ours, randn, using

_NOPE, _ROPE, _VALUE = 128, 64, 128
_SCALE = (_NOPE + _ROPE) ** -0.5
WHOLE_ROWS, ALONE, MASKED = "cuDNN, whole rows", "cuDNN alone", "SDPA, written mask"


def core(batch: int, length: int, heads: int, documents: int) -> Case:
    """Forward and backward, of whole rows or of documents.

    Documents are by turns longer and shorter by an eighth, and end inside of blocks. The library's core alone
    has whole rows of their mean length, with 1.6 % fewer pairs.
    """
    widths = (_NOPE, _ROPE, _NOPE + _VALUE)
    parts = [randn(batch, length, heads, width) for width in widths] + [randn(batch, length, _ROPE)]
    inputs = [t.requires_grad_() for t in parts]
    q, q_rope, kv, k_rope = inputs
    up = randn(batch, length, heads, _VALUE)
    each = length // documents
    borders = torch.tensor([i * each + i % 2 * (each // 8 + 1) for i in range(1, documents)])
    ids = torch.searchsorted(borders, torch.arange(length), right=True).expand(batch, length)
    found = find_documents(ids) if documents > 1 else None

    def run(masks: bool) -> tuple[Tensor, ...]:
        out = latent_attention(q, q_rope, kv, k_rope, _SCALE, found if masks else None)
        return out, *torch.autograd.grad(out, inputs, up)

    def joined() -> Tensor:
        return torch.cat([t.detach().flatten() for t in run(True)])

    # Of the model's tensors the library needs copies, since it takes one key a head, and a written mask.
    library = partial(using, "latent_attention", "reference")
    contenders = [
        Contender(ALONE, _alone(batch * documents, each, heads)),
        Contender(WHOLE_ROWS, library(partial(run, False))),
    ]
    if found is not None:
        contenders.append(Contender(MASKED, library(partial(run, True))))
    for backend in ("gluon", "triton"):
        kernel = partial(using, "latent_attention", backend)
        answer = Answer(library(joined), ATTENTION_GATE, kernel(joined))
        contenders.append(ours(backend, kernel(partial(run, True)), answer))
    pairs = sum(int((ids == n).sum(1).square().sum()) for n in range(documents)) / 2
    moved = 4.0 * sum(t.numel() for t in (*inputs, up)) + 2.0 * up.numel()
    return Case("TFLOP/s", 2.0 * pairs * heads * (_NOPE + _ROPE + _VALUE) * 3.5, moved, contenders)


def _alone(rows: int, length: int, heads: int) -> Callable[[], object]:
    """The library's core, forward and backward, of as many whole rows, with tensors as it wants them."""
    widths = (_NOPE + _ROPE, _NOPE + _ROPE, _VALUE)
    q, k, v = inputs = [randn(rows, length, heads, width).requires_grad_() for width in widths]
    up = randn(rows, length, heads, _VALUE)

    def call() -> tuple[Tensor, ...]:
        out = attention(q, k, v, _SCALE)
        return out, *torch.autograd.grad(out, inputs, up)

    return using("attention", "torch", call)
