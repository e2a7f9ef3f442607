"""What is quantised by the kernel that computes it: the same bits, and no value read that is not written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from penstock.kernels import norm, registry
from penstock.kernels.states import States
from penstock.model import Transformer, linear


class Unwritten(torch.autograd.Function):
    """Memory that nobody wrote, to which a gradient flows all the same."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.full_like(x, torch.nan)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


def unwritten_norm(*arguments: Any) -> tuple[Tensor, States]:
    """``add_rms_norm_quantize`` as a GPU runs it, where values that are not to be kept hold anything."""
    x, states = add_rms_norm_quantize(*arguments)
    return x, states if arguments[-1] else States(Unwritten.apply(states.values), states.rows)


add_rms_norm_quantize = norm.add_rms_norm_quantize


def loss_and_gradients(model: Transformer, tokens: Tensor) -> list[Tensor]:
    model.zero_grad()
    loss = model.loss(tokens).total
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": None, "kv_lora_rank": 128, "hidden_size": 256}])
def test_the_bits_are_those_of_a_cast_of_its_own(
    changes: dict[str, int],
    make_model: Callable[..., Transformer],
    make_tokens: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(registry.RECIPE_ENVIRONMENT, "shift")
    model, tokens = make_model("fp8", **changes), make_tokens(2, 19)
    with monkeypatch.context() as patch:
        patch.setattr(norm, "add_rms_norm_quantize", unwritten_norm)
        found = loss_and_gradients(model, tokens)
    with monkeypatch.context() as patch:
        patch.setattr(linear, "reads_rows", lambda _: False)
        expected = loss_and_gradients(model, tokens)
    assert len(found) == len(expected) == 1 + len(list(model.parameters()))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_recipe_v3_reads_values(
    make_model: Callable[..., Transformer],
    make_tokens: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("quantised, though the gradient of the weight reads values")

    monkeypatch.setenv(registry.RECIPE_ENVIRONMENT, "v3")
    monkeypatch.setattr(norm, "add_rms_norm_quantize", never)
    assert len(loss_and_gradients(make_model("fp8"), make_tokens(2, 19))) > 1
