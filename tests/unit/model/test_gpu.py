"""The same model on a GPU: near the CPU's numbers, the same twice, and never waiting for the device."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from penstock.model import KVCache, Transformer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]

# Sizes that FP8 products on a GPU take: multiples of 128 where they are reduced.
SIZES = {
    "vocab_size": 61,
    "hidden_size": 256,
    "intermediate_size": 256,
    "moe_intermediate_size": 128,
    "num_attention_heads": 2,
    "kv_lora_rank": 128,
    "q_lora_rank": None,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
    "initializer_range": 0.05,
}


def batch(make_tokens: Callable[..., Tensor], device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Two rows of three documents; the second ends in padding."""
    tokens, column = make_tokens(2, 259), torch.arange(259)
    ids = ((column >= 100).long() + (column >= 180)).repeat(2, 1)
    ids[1, 230:] = -1
    return tokens.to(device), torch.arange(256).repeat(2, 1).to(device), ids.to(device)


def run(model: Transformer, rows: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Losses a target, gradients and expert counts."""
    parts = model.loss(*rows, head_chunk_tokens=100)
    (parts.total / parts.targets).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return (
        torch.stack([parts.main, *parts.mtp, parts.balance]) / parts.targets,
        gradients,
        parts.expert_counts,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_near_the_cpu(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor], precision: str
) -> None:
    cpu, _, _ = run(make_model(precision, **SIZES), batch(make_tokens, "cpu"))
    gpu, gradients, counts = run(make_model(precision, **SIZES).cuda(), batch(make_tokens, "cuda"))
    bound = 1e-4 if precision == "fp32" else 1e-2
    assert (gpu.cpu() / cpu - 1).abs().max() < bound
    assert all(g.isfinite().all() for g in gradients.values())
    assert gradients.keys() == dict(make_model(**SIZES).named_parameters()).keys()
    assert counts.is_cuda


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_the_same_twice(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor], precision: str
) -> None:
    rows = batch(make_tokens, "cuda")
    first, second = (run(make_model(precision, **SIZES).cuda(), rows) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[2], second[2])
    assert [n for n, g in first[1].items() if not torch.equal(g, second[1][n])] == []


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_step_never_waits_for_the_device(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor], precision: str
) -> None:
    model, rows = make_model(precision, **SIZES).cuda(), batch(make_tokens, "cuda")
    run(model, rows)
    torch.cuda.set_sync_debug_mode("error")
    try:
        _, _, counts = run(model, rows)
        model.update_router_bias(counts, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-3), ("bf16", 0.05)])
def test_the_cache(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor], precision: str, bound: float
) -> None:
    model, tokens = make_model(precision, **SIZES).cuda(), make_tokens(2, 40).cuda()
    cache = KVCache(model.config, 2, 40, "cuda", model.dtype)
    with torch.no_grad():
        pieces = [model(piece, cache=cache) for piece in tokens.split([30, 1, 1, 8], dim=1)]
        full = model(tokens)
    # A gate's choice may flip at bfloat16's rounding, so the typical difference is looked at.
    difference = (torch.cat(pieces, dim=1) - full).norm(dim=-1) / full.norm(dim=-1)
    assert difference.median() < bound
