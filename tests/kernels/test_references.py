"""The ops a model calls, on a CPU: against float64, numerical gradients, and programs written elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from penstock.kernels import registry
from penstock.kernels.attention import attention
from penstock.kernels.cross_entropy import joint_cross_entropy, linear_cross_entropy
from penstock.kernels.embedding import embedding
from penstock.kernels.gemm import (
    linear,
)
from penstock.kernels.mla import apply_rope, rotate_heads
from penstock.kernels.norm import add_rms_norm, rms_norm
from penstock.kernels.numeric import relative_error, same_bits
from penstock.kernels.swiglu import swiglu
from penstock.kernels.types import aligned

DOUBLE = torch.float64


def leaf(*shape: int, dtype: torch.dtype = DOUBLE) -> Tensor:
    return torch.randn(shape, dtype=dtype).requires_grad_()


def test_gradients_are_exact() -> None:
    check = torch.autograd.gradcheck
    doc_ids = torch.tensor([[0, 0, 1, 1, -1], [0, 0, 0, 0, 0]])
    cos, sin = torch.randn(5, 3, dtype=DOUBLE), torch.randn(5, 3, dtype=DOUBLE)
    assert check(lambda x, w: linear(x, w, "fp32"), (leaf(2, 3, 8), leaf(5, 8)))
    assert check(lambda x, w: rms_norm(x, w, 1e-6), (leaf(3, 8), leaf(8)))
    assert check(lambda x, d, w: add_rms_norm(x, d, w, 1e-6), (leaf(3, 8), leaf(3, 8), leaf(8)))
    assert check(swiglu, (leaf(3, 8),))
    assert check(lambda w: embedding(torch.tensor([[3, 0], [3, 3]]), w, DOUBLE), (leaf(5, 4),))
    for interleaved in (True, False):
        assert check(lambda x, i=interleaved: apply_rope(x, cos, sin, i), (leaf(2, 5, 6),))
        heads = lambda q, k, i=interleaved: rotate_heads(q, k, cos[None], sin[None], i)  # noqa: E731
        assert check(heads, (leaf(2, 5, 3, 10), leaf(2, 5, 6)))
    for ids in (None, doc_ids):
        inputs = (leaf(2, 5, 3, 6), leaf(2, 5, 3, 6), leaf(2, 5, 3, 4))
        assert check(lambda q, k, v, d=ids: attention(q, k, v, 0.4, d), inputs)


def test_norm_rope_and_attention_equal_those_of_transformers() -> None:
    pytest.importorskip("transformers")
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as hf

    x, w = torch.randn(3, 7, 64).bfloat16(), torch.randn(64)
    norm = hf.DeepseekV3RMSNorm(64, 1e-5).bfloat16()
    norm.weight.data.copy_(w)
    assert same_bits(rms_norm(x, w, 1e-5), norm(x).detach())

    q, k = torch.randn(2, 4, 9, 16), torch.randn(2, 1, 9, 16)
    angles = torch.randn(2, 9, 8)
    cos, sin = (f(torch.cat((angles, angles), -1)) for f in (torch.cos, torch.sin))
    for rotate, interleaved in ((hf.apply_rotary_pos_emb_interleave, True), (hf.apply_rotary_pos_emb, False)):
        q_expected, k_expected = rotate(q, k, cos, sin)
        wide = (cos[:, None], sin[:, None])
        assert torch.allclose(apply_rope(q, *wide, interleaved), q_expected, atol=1e-6)
        assert torch.allclose(apply_rope(k, *wide, interleaved), k_expected, atol=1e-6)
        nope = torch.randn(2, 9, 4, 5)
        q_whole, k_whole = torch.cat((nope, q.transpose(1, 2)), -1), k[:, 0]
        parts = rotate_heads(q_whole, k_whole, cos, sin, interleaved)
        assert torch.equal(parts[0], nope)
        assert torch.allclose(parts[1].transpose(1, 2), q_expected, atol=1e-6)
        assert torch.allclose(parts[2][:, None], k_expected, atol=1e-6)
        assert torch.equal(
            apply_rope(q, *(t[..., :8] for t in wide), interleaved), apply_rope(q, *wide, interleaved)
        )


def test_attention_does_not_look_ahead_or_across_documents() -> None:
    q, k, v = (torch.randn(1, 12, 2, 8) for _ in range(3))
    ids = torch.tensor([[0] * 5 + [1] * 4 + [-1] * 3])
    whole = attention(q, k, v, 0.3, ids)
    for start, end in ((0, 5), (5, 9), (9, 12)):
        part = slice(start, end)
        assert torch.allclose(whole[:, part], attention(q[:, part], k[:, part], v[:, part], 0.3), atol=1e-6)
    with registry.override("attention", "reference"):
        assert torch.allclose(whole, attention(q, k, v, 0.3, ids), atol=1e-6)


def test_heads_that_share_an_output_layer_add_up() -> None:
    states, w = [leaf(50, 16, dtype=torch.float32) for _ in range(3)], leaf(300, 16, dtype=torch.float32)
    targets = [torch.randint(0, 300, (50,)) for _ in states]
    targets[1][:20] = -100
    weights, z_loss = (1.0, 0.15, 0.4), 1e-2
    expected, sums = torch.zeros((), dtype=DOUBLE), []
    for x, target, weight in zip(states, targets, weights, strict=True):
        logits = x.double() @ w.double().t()
        sums.append(F.cross_entropy(logits, target, reduction="sum"))
        square = (logits.logsumexp(-1).square() * (target != -100)).sum()
        expected = expected + weight * (sums[-1] + z_loss * square)
    wanted = torch.autograd.grad(expected * 3, (*states, w))
    for chunk in (7, 50):
        losses = joint_cross_entropy(states, w, targets, weights, chunk, "fp32", z_loss)
        assert relative_error(losses.total, expected) < 1e-6
        assert relative_error(torch.stack(losses.heads), torch.stack(sums)) < 1e-6
        assert not any(loss.requires_grad for loss in losses.heads)
        found = torch.autograd.grad(losses.total * 3, (*states, w))
        for a, b in zip(found, wanted, strict=True):
            assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "value_gate", "gate"), [(torch.float32, 1e-6, 1e-5), (DOUBLE, 1e-14, 1e-13)]
)
def test_the_loss_equals_torchs_for_any_chunk(dtype: torch.dtype, value_gate: float, gate: float) -> None:
    x, w = leaf(50, 16, dtype=dtype), leaf(300, 16, dtype=dtype)
    target = torch.randint(0, 300, (50,))
    target[[3, 7]] = -100
    expected = F.cross_entropy(x.double() @ w.double().t(), target, reduction="sum")
    gradients = torch.autograd.grad(expected, (x, w))
    for chunk in (1, 16, 50, 8192):
        loss = linear_cross_entropy(x, w, target, chunk, "fp32")
        assert loss.dtype == dtype
        assert relative_error(loss, expected) < value_gate
        for found, wanted in zip(torch.autograd.grad(loss * 3, (x, w)), gradients, strict=True):
            assert relative_error(found, 3 * wanted) < gate
    with torch.no_grad():
        assert not linear_cross_entropy(x, w, target, 16, "fp32").requires_grad
    assert linear_cross_entropy(x[:0], w, target[:0], 16, "fp32").backward() is None
    assert torch.equal(w.grad, torch.zeros_like(w))
    assert linear_cross_entropy(x, w, torch.full((50,), -100), 16, "fp32") == 0


def test_a_second_backward_through_a_loss_is_refused() -> None:
    """Its gradients were scaled where they lie."""
    x, w = leaf(5, 8), leaf(6, 8)
    loss = linear_cross_entropy(x, w, torch.arange(5), 4, "fp32")
    torch.autograd.grad(loss, (x, w), retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace operation"):
        torch.autograd.grad(loss, (x, w))


def test_what_tma_reads_is_made_of_any_view() -> None:
    """Whole rows from a multiple of 16 bytes on: a copy of a transposed view would be transposed too."""
    memory = torch.arange(8 * 64 + 1).bfloat16()
    for x in (memory[:-1].view(8, 64), memory[1:].view(8, 64), memory[1:].view(64, 8).t()):
        found = aligned(x)
        assert found.is_contiguous()
        assert found.data_ptr() % 16 == 0
        assert torch.equal(found, x)
    assert aligned(memory[:-1]).data_ptr() == memory.data_ptr(), "no copy where none is needed"
