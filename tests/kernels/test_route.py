"""Routing: choices equal to transformers', tables equal to a loop in Python, moves differentiable."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.kernels.attention import find_documents, latent_attention
from penstock.kernels.feed_forward import expert_feed_forward
from penstock.kernels.grouped_gemm import grouped_linear
from penstock.kernels.numeric import relative_error
from penstock.kernels.permute import combine, permute, permute_rows
from penstock.kernels.quantize import dequantize, quantize_rows, transpose_shift
from penstock.kernels.route import route, route_tables
from penstock.kernels.types import Groups


def tables_by_hand(idx: list[list[int]], experts: int, valid: list[bool], block: int) -> dict[str, list]:
    """What ``route_tables`` must give, without tensors."""
    tokens, k = len(idx), len(idx[0]) if idx else 0
    members = [
        [(t, j) for t in range(tokens) for j in range(k) if valid[t] and idx[t][j] == e]
        for e in range(experts)
    ]
    rows = -(-(k * tokens + (block - 1) * experts) // block) * block
    offsets, row_token, block_expert = [0], [-1] * rows, [-1] * (rows // block)
    token_pos = [[-1] * k for _ in range(tokens)]
    for e, chosen in enumerate(members):
        for i, (t, j) in enumerate(chosen):
            row_token[offsets[-1] + i] = t
            token_pos[t][j] = offsets[-1] + i
        end = offsets[-1] + -(-len(chosen) // block) * block
        block_expert[offsets[-1] // block : end // block] = [e] * ((end - offsets[-1]) // block)
        offsets.append(end)
    counts = [len(chosen) for chosen in members]
    return {
        "offsets": offsets,
        "row_token": row_token,
        "block_expert": block_expert,
        "token_pos": token_pos,
        "counts": counts,
    }


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_tables_equal_those_made_by_hand(data: st.DataObject) -> None:
    experts = data.draw(st.integers(1, 9))
    k = data.draw(st.integers(1, min(4, experts)))
    tokens = data.draw(st.integers(1, 40))
    block = data.draw(st.sampled_from([1, 4, 16, 128]))
    choice = st.lists(st.integers(0, experts - 1), min_size=k, max_size=k)
    idx = data.draw(st.lists(choice, min_size=tokens, max_size=tokens))
    valid = data.draw(st.lists(st.booleans(), min_size=tokens, max_size=tokens))
    groups = route_tables(torch.tensor(idx, dtype=torch.int32), experts, torch.tensor(valid), block)
    for name, expected in tables_by_hand(idx, experts, valid, block).items():
        found = getattr(groups, name)
        assert found.dtype == torch.int32
        assert found.tolist() == expected, name


@pytest.mark.parametrize(("n_group", "topk_group", "k"), [(1, 1, 6), (8, 4, 6), (4, 1, 3), (8, 8, 8)])
@pytest.mark.parametrize("normalise", [True, False])
def test_choices_equal_those_of_transformers(n_group: int, topk_group: int, k: int, normalise: bool) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

    config = transformers.DeepseekV3Config(
        hidden_size=16,
        n_routed_experts=32,
        n_group=n_group,
        topk_group=topk_group,
        num_experts_per_tok=k,
        norm_topk_prob=normalise,
        routed_scaling_factor=2.5,
    )
    router = DeepseekV3TopkRouter(config)
    torch.nn.init.normal_(router.weight)
    router.e_score_correction_bias.normal_(std=0.3)
    hidden = torch.randn(100, 16)
    logits, p_expected, idx_expected = router(hidden)
    idx, p, scores, highest = route(
        logits, router.e_score_correction_bias, n_group, topk_group, k, 2.5, normalise
    )
    assert idx.dtype == torch.int32
    order, order_expected = idx.argsort(1), idx_expected.argsort(1)
    assert torch.equal(idx.gather(1, order).long(), idx_expected.gather(1, order_expected))
    # Their choices come in another order, so their sum is rounded differently.
    assert relative_error(p.gather(1, order), p_expected.gather(1, order_expected)) < 1e-6
    assert torch.equal(scores, logits.sigmoid())
    assert torch.equal(highest.long(), logits.sort(1, descending=True).indices[:, :k])


def small_groups() -> tuple[Groups, torch.Tensor]:
    idx = torch.tensor(
        [[0, 2], [2, 4], [0, 4], [2, 0], [4, 2]], dtype=torch.int32
    )  # experts 1 and 3 are empty
    return route_tables(idx, 5, torch.tensor([True, True, False, True, True]), block=4), idx


def test_moves_and_expert_layers_have_exact_gradients() -> None:
    groups, _ = small_groups()
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    w = torch.randn(5, 3, 6, dtype=torch.float64, requires_grad=True)
    p = torch.rand(5, 2, dtype=torch.float64, requires_grad=True)

    def layer(x: torch.Tensor, w: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return combine(grouped_linear(permute(x, groups), w, groups, "fp32"), p, groups)

    assert torch.autograd.gradcheck(layer, (x, w, p))


def test_the_choice_has_exact_gradients() -> None:
    logits = torch.randn(7, 16, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(16, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: route(t, bias, 4, 2, 4, 2.5)[1], (logits,))


def test_a_layer_equals_a_loop_over_tokens() -> None:
    groups, idx = small_groups()
    x, w, p = torch.randn(5, 6), torch.randn(5, 3, 6), torch.rand(5, 2)
    out = combine(grouped_linear(permute(x, groups), w, groups, "fp32"), p, groups)
    expected = torch.stack([sum(p[t, j] * (w[idx[t, j]] @ x[t]) for j in range(2)) for t in range(5)])
    expected[2] = 0  # this token is not routed
    assert relative_error(out, expected) < 1e-6


@pytest.mark.parametrize("recipe", ["shift", "v3"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_no_tokens_are_few_tokens(precision: str, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_FP8_RECIPE", recipe)
    groups = route_tables(torch.empty(0, 2, dtype=torch.int32), 3)
    x, p = torch.empty(0, 130, requires_grad=True), torch.empty(0, 2, requires_grad=True)
    gate_up, down = torch.randn(3, 256, 130, requires_grad=True), torch.randn(3, 130, 128, requires_grad=True)
    y = expert_feed_forward(x, p, gate_up, down, groups, precision)
    assert y.shape == (0, 130)
    y.sum().backward()
    assert not gate_up.grad.any()
    assert not down.grad.any()


def test_no_tokens_are_filling_rows_alone() -> None:
    groups = route_tables(torch.empty(0, 2, dtype=torch.int32), 3)
    rows = quantize_rows(torch.empty(0, 130))
    assert groups.counts.tolist() == [0, 0, 0]
    assert not permute(torch.empty(0, 130), groups).any()
    assert not dequantize(permute_rows(rows, groups)).any()
    moved = transpose_shift(rows, groups.row_token)
    assert not dequantize(moved).any()
    assert (moved.scale == 2.0**-126).all()


def test_no_positions_are_few_positions() -> None:
    q = torch.empty(2, 0, 3, 32, requires_grad=True)
    documents = find_documents(torch.empty(2, 0, dtype=torch.int64))
    y = latent_attention(q, q[..., :16], torch.empty(2, 0, 3, 48), torch.empty(2, 0, 16), 0.1, documents)
    assert y.shape == (2, 0, 3, 16)
    y.sum().backward()
