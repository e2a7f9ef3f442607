"""The sequence-wise balance loss and the router's bias, against plain loops and by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from penstock.kernels import route
from penstock.model import Transformer
from penstock.model.moe import MoE


def balance_by_loops(scores: Tensor, k: int) -> float:
    """Equations 17 to 20 of the V3 report for one sequence ``[T, E]``."""
    tokens, experts = scores.shape
    total = 0.0
    for i in range(experts):
        hits = sum(i in sorted(range(experts), key=lambda j: -row[j])[:k] for row in scores.tolist())
        f = experts / (k * tokens) * hits
        p = sum((row[i] / row.sum()).item() for row in scores) / tokens
        total += f * p
    return total


def balance_loss(scores: Tensor, k: int, valid: Tensor | None = None) -> Tensor:
    return route.balance_loss(scores, scores.topk(k).indices, valid)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_against_loops(k: int) -> None:
    scores = torch.rand(3, 11, 8, generator=torch.Generator().manual_seed(0))
    ours = balance_loss(scores, k)
    assert ours.tolist() == pytest.approx([balance_by_loops(s, k) for s in scores], rel=1e-5)


def test_only_valid_tokens_count() -> None:
    scores = torch.rand(2, 9, 6, generator=torch.Generator().manual_seed(1))
    valid = torch.tensor([[True] * 5 + [False] * 4, [False] * 9])
    first, second = balance_loss(scores, 2, valid).tolist()
    assert first == pytest.approx(balance_by_loops(scores[0, :5], 2), rel=1e-5)
    assert second == 0.0


def test_even_load_gives_one_and_collapse_gives_more() -> None:
    even = torch.eye(4).repeat(1, 3, 1) * 0.8 + 0.1
    assert balance_loss(even, 1).item() == pytest.approx(1.0, rel=1e-6)
    collapsed = torch.tensor([0.9, 0.1, 0.1, 0.1]).expand(1, 12, 4)
    assert balance_loss(collapsed, 1).item() == pytest.approx(4 * 0.75, rel=1e-6)


def test_its_gradient_lowers_the_crowded_expert(make_model: Callable[..., Transformer]) -> None:
    logits = torch.zeros(1, 12, 4)
    logits[..., 2] = 1.0
    logits.requires_grad_()
    balance_loss(logits.sigmoid(), 1).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[..., 2] > 0).all()
    assert (logits.grad[..., [0, 1, 3]] < 0).all()


def test_the_model_adds_it_weighted_by_targets(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    """Rows of 12 and of 5 real targets: the mean a token is (12 a + 5 b) / 17."""
    model = make_model(num_nextn_predict_layers=0)
    tokens, doc_ids = make_tokens(2, 13), torch.zeros(2, 13, dtype=torch.int64)
    doc_ids[1, 6:] = -1
    per_layer: list[Tensor] = []
    for block in model.layers:
        if isinstance(block.mlp, MoE):
            block.mlp.register_forward_hook(lambda _, __, output: per_layer.append(output[1].balance))
    parts = model.loss(tokens, doc_ids=doc_ids, balance_loss_weight=0.5)
    assert parts.targets.item() == 17
    expected = sum(12 * b[0] + 5 * b[1] for b in per_layer)
    assert len(per_layer) == 2
    assert parts.balance.item() == pytest.approx(expected.item(), rel=1e-6)
    assert parts.total.item() == pytest.approx(parts.main.item() + 0.5 * expected.item(), rel=1e-6)


def test_bias_moves_against_the_load(make_model: Callable[..., Transformer]) -> None:
    model = make_model(n_routed_experts=4, n_group=1, topk_group=1)
    for gate in model.routers():
        gate.e_score_correction_bias.zero_()
    counts = torch.tensor([[4, 4, 4, 4], [0, 10, 5, 5], [1, 2, 3, 4], [0, 0, 0, 9]])
    model.update_router_bias(counts, speed=0.25)
    biases = [gate.e_score_correction_bias.tolist() for gate in model.routers()]
    assert biases == [
        [0, 0, 0, 0],
        [0.25, -0.25, 0, 0],
        [0.25, 0.25, -0.25, -0.25],
        [0.25, 0.25, 0.25, -0.25],
    ]


def test_bias_needs_a_row_for_every_layer(make_model: Callable[..., Transformer]) -> None:
    with pytest.raises(ValueError, match="zip"):
        make_model().update_router_bias(torch.ones(1, 8), 0.1)


def test_bias_evens_out_a_skewed_load(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    """With frozen weights, updates alone must bring the fullest expert near the mean."""
    model, tokens = make_model(num_nextn_predict_layers=0, n_group=1, topk_group=1), make_tokens(8, 33)

    def fullest() -> float:
        counts = model.loss(tokens).expert_counts
        return float((counts.amax(1) / counts.double().mean(1)).max())

    before = fullest()
    with torch.no_grad():
        for _ in range(120):
            model.update_router_bias(model.loss(tokens).expert_counts, speed=0.01)
    assert before > 1.5
    assert fullest() < 1.2


def test_weights_come_from_unbiased_scores(make_model: Callable[..., Transformer]) -> None:
    gate = make_model(n_group=1, topk_group=1).routers()[0]
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(2))
    gate.e_score_correction_bias.zero_()
    gate.e_score_correction_bias[3] = 100.0
    experts, weights, scores, _ = gate(x)
    assert (experts == 3).any(-1).all()
    chosen = scores.gather(1, experts.long())
    assert torch.allclose(weights, 2.5 * chosen / chosen.sum(-1, keepdim=True))


def test_counts_are_of_every_layer(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    counts = make_model().loss(make_tokens(2, 13)).expert_counts
    assert counts.shape == (4, 8)
    assert counts.dtype == torch.int64
    assert counts.sum(1).tolist() == [2 * 10 * 2] * 4


def test_a_dense_model_has_no_counts(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    model = make_model(first_k_dense_replace=3, num_nextn_predict_layers=0)
    parts = model.loss(make_tokens(2, 9))
    assert parts.expert_counts.shape == (0, 8)
    assert parts.balance.item() == 0
    model.update_router_bias(parts.expert_counts, 0.1)
    assert dataclasses.is_dataclass(parts)
