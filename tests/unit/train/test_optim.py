"""AdamW and clipping against torch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from penstock.config import OptimizerConfig
from penstock.kernels.gemm import copy_to_update, linear, quantized_weight
from penstock.kernels.gemm.weights import cast_weight
from penstock.kernels.gradient_norm import gradient_norm
from penstock.kernels.numeric import same_bits
from penstock.kernels.quantize import dequantize
from penstock.train.optim import AdamW, clip_coefficient


class Two(nn.Module):
    """A matrix and a vector."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(5, 7))
        self.vector = nn.Parameter(torch.randn(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x @ self.matrix) * self.vector).square().sum()


def backward(model: Two, step: int) -> None:
    model(torch.randn(3, 5, generator=torch.Generator().manual_seed(step))).backward()


@pytest.mark.parametrize(("moments", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_equals_torch_adamw(moments: str, tolerance: float) -> None:
    config = OptimizerConfig(clip_norm=1.5, moments_dtype=moments)
    ours, theirs = Two(), Two()
    optimizer = AdamW(ours.named_parameters(), config)
    groups = [
        {"params": [theirs.matrix], "weight_decay": config.weight_decay},
        {"params": [theirs.vector], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(config.beta1, config.beta2), eps=config.eps)
    for step in range(6):
        backward(ours, step)
        norm = float(gradient_norm(optimizer.gradients()))
        optimizer.step(1e-2, clip_coefficient(norm, config.clip_norm))
        optimizer.zero_grad()

        reference.zero_grad()
        backward(theirs, step)
        expected = float(nn.utils.clip_grad_norm_(theirs.parameters(), 1.5))
        assert norm == pytest.approx(expected, rel=tolerance)
        reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance / 10)


def test_moments_are_bf16_and_named() -> None:
    optimizer = AdamW(Two().named_parameters(), OptimizerConfig())
    assert {n: t.dtype for n, t in optimizer.tensors().items()} == dict.fromkeys(
        ("m.matrix", "m.vector", "v.matrix", "v.vector"), torch.bfloat16
    )


def test_vectors_do_not_decay() -> None:
    model = Two()
    before = model.vector.detach().clone(), model.matrix.detach().clone()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    AdamW(model.named_parameters(), OptimizerConfig(weight_decay=0.5)).step(0.1, 1.0)
    torch.testing.assert_close(model.vector, before[0], rtol=0, atol=0)
    torch.testing.assert_close(model.matrix, before[1] * (1 - 0.1 * 0.5))


def test_clip_coefficient() -> None:
    assert clip_coefficient(0.5, 1.0) == 1.0
    assert clip_coefficient(4.0, 1.0) == 0.25
    assert clip_coefficient(4.0, 0.0) == 1.0


@pytest.mark.parametrize("precision", ["fp8", "bf16"])
def test_an_update_writes_what_products_read(precision: str) -> None:
    """The next product finds its copy of the weight current, and equal to one made afresh."""
    w = nn.Parameter(torch.randn(130, 144))
    optimizer = AdamW([("w", w)], OptimizerConfig())
    linear(torch.randn(3, 144, dtype=torch.bfloat16), w, precision).sum().backward()
    copy = copy_to_update(w)
    optimizer.step(0.5, 1.0)
    fresh = w.detach().clone()
    if precision == "fp8":
        assert quantized_weight(w) is copy
        assert same_bits(copy.data_t, quantized_weight(fresh).data_t)
        assert torch.equal(copy.scale, quantized_weight(fresh).scale)
    else:
        assert cast_weight(w, torch.bfloat16) is copy
        assert torch.equal(copy, fresh.bfloat16())
    with torch.no_grad():
        w.mul_(3)
    assert torch.equal(dequantize(quantized_weight(w)), dequantize(quantized_weight(fresh * 3)))


def test_a_weight_that_moved_has_no_copy_to_update() -> None:
    w = nn.Parameter(torch.randn(16, 16))
    assert copy_to_update(w) is None
    quantized_weight(w)
    assert copy_to_update(w) is not None
    w.data = w.data.clone()
    assert copy_to_update(w) is None
