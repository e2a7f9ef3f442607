"""The whole model: accumulation, multi-token prediction, the cache, precisions, sizes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from penstock.config import ModelConfig, RopeScaling
from penstock.errors import ConfigError
from penstock.model import KVCache, Transformer, count_parameters, flops_per_token

YARN = RopeScaling(factor=4.0, original_max_position_embeddings=16)


def gradients_of(model: Transformer) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("cuts", [(1, 1, 1, 1), (3, 1), (2, 2)])
def test_accumulated_micro_batches_equal_one_batch(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor], cuts: tuple[int, ...]
) -> None:
    """With documents and padding that give every row another number of targets."""
    model, tokens = make_model(), make_tokens(4, 15)
    doc_ids = torch.zeros_like(tokens)
    for row, (end, real) in enumerate([(15, 15), (4, 15), (9, 11), (1, 3)]):
        doc_ids[row, end:] = 1
        doc_ids[row, real:] = -1
    whole = model.loss(tokens, None, doc_ids, balance_loss_weight=0.1)
    (whole.total / whole.targets).backward()
    expected = gradients_of(model)
    model.zero_grad()
    parts = [
        model.loss(t, None, d, balance_loss_weight=0.1)
        for t, d in zip(tokens.split(cuts), doc_ids.split(cuts), strict=True)
    ]
    targets = sum(p.targets for p in parts)
    for part in parts:
        (part.total / targets).backward()
    assert targets == whole.targets
    assert sum(p.balance for p in parts).item() == pytest.approx(whole.balance.item(), rel=1e-5)  # type: ignore[union-attr]
    assert torch.equal(sum(p.expert_counts for p in parts), whole.expert_counts)  # type: ignore[arg-type]
    for name, gradient in gradients_of(model).items():
        assert (gradient - expected[name]).abs().max() <= 1e-6 * max(1.0, expected[name].abs().max().item())


def test_head_chunks_change_nothing(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    model, tokens = make_model(), make_tokens(2, 17)
    whole, chunked = (model.loss(tokens, head_chunk_tokens=n) for n in (1000, 5))
    assert chunked.total.item() == pytest.approx(whole.total.item(), rel=1e-6)


def test_loss_equals_cross_entropy_of_the_logits(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    model, tokens = make_model(num_nextn_predict_layers=0), make_tokens(3, 12)
    logits = model(tokens[:, :-1])
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum"
    )
    assert model.loss(tokens).main.item() == pytest.approx(expected.item(), rel=1e-6)


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


def test_two_depths_of_mtp_against_a_plain_loop(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    """Depth by depth with explicit indices, each over just the positions that have all inputs."""
    model, tokens = make_model(), make_tokens(2, 14)
    with torch.no_grad():
        for weight in model.mtp.parameters():
            if weight.ndim == 1:
                weight.add_(0.3 * torch.randn(weight.shape))
    parts = model.loss(tokens, mtp_loss_weight=0.6, balance_loss_weight=0.0)
    states, _ = model.states(tokens[:, :-1], seq_len=11)
    h = states[0]
    losses = []
    for depth, layer in enumerate(model.mtp, 1):
        table = model.embed_tokens.weight
        pairs = [
            torch.cat(
                [rms(table[tokens[:, i + depth]], layer.enorm.weight), rms(h[:, i], layer.hnorm.weight)], -1
            )
            for i in range(11)
        ]
        x = torch.stack([pair @ layer.eh_proj.weight.T for pair in pairs], dim=1)
        x, delta, _ = layer.block(x, None, model._rows(tokens[:, :11], None, None, None))
        h = rms(x + delta.values, layer.norm.weight)
        logp = (h @ model.lm_head.weight.T).log_softmax(-1)
        losses.append(
            -sum(logp[b, i, tokens[b, i + depth + 1]] for b in range(2) for i in range(11)).item()  # type: ignore[union-attr]
        )
    assert [x.item() for x in parts.mtp] == pytest.approx(losses, rel=1e-5)
    assert parts.total.item() == pytest.approx(parts.main.item() + 0.6 * sum(losses) / 2, rel=1e-5)


def test_a_target_ahead_never_changes_what_is_predicted(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    """Depth d at i may read tokens up to i + d and no further."""
    model, tokens = make_model(), make_tokens(1, 12)
    states, _ = model.states(tokens, seq_len=9)
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 61
    others, _ = model.states(changed, seq_len=9)
    for depth, (a, b) in enumerate(zip(states, others, strict=True)):
        same = (a - b).abs().amax(-1)[0] < 1e-5
        assert same.tolist() == [i + depth < 7 for i in range(9)]


@pytest.mark.parametrize("steps", [(1,) * 20, (7, 1, 1, 5, 6), (20,)])
@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": None, "rope_scaling": YARN}], ids=["plain", "yarn"])
def test_the_cache_gives_the_full_forward(
    make_model: Callable[..., Transformer],
    make_tokens: Callable[..., Tensor],
    steps: tuple[int, ...],
    changes: dict[str, object],
) -> None:
    model, tokens = make_model(**changes), make_tokens(3, 20)
    cache = KVCache(model.config, 3, 20)
    with torch.no_grad():
        full = model(tokens)
        pieces = [model(piece, cache=cache) for piece in tokens.split(steps, dim=1)]
    assert cache.length == 20
    assert (torch.cat(pieces, dim=1) - full).abs().max() < 1e-5


def test_the_cache_forgets(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    model, tokens = make_model(), make_tokens(1, 12)
    cache = KVCache(model.config, 1, 12)
    with torch.no_grad():
        model(tokens[:, :6], cache=cache)
        model(make_tokens(1, 4, seed=9), cache=cache)
        cache.length = 6
        rest = model(tokens[:, 6:], cache=cache)
        assert (rest - model(tokens)[:, 6:]).abs().max() < 1e-5


def test_a_full_cache_says_so(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    model = make_model()
    cache = KVCache(model.config, 1, 4)
    with pytest.raises(ConfigError, match="room for 4 tokens, not 5"):
        model(make_tokens(1, 5), cache=cache)
    with pytest.raises(ConfigError, match="one document a row"):
        model(make_tokens(1, 4), doc_ids=torch.zeros(1, 4, dtype=torch.int64), cache=cache)


def test_lower_precisions_round_as_they_should(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    """Gradients of a dense model, since a gate's choices flip at any rounding.

    E4M3 rounds 16 times as coarsely as bfloat16, and some of what rounds (attention, head, the residual
    stream) is bfloat16 in both: so FP8 must be several times as far off, and not more than 16 times.
    """
    models = {
        p: make_model(p, first_k_dense_replace=3, num_nextn_predict_layers=0) for p in ("fp32", "bf16", "fp8")
    }
    losses = {p: model.loss(make_tokens(2, 25)) for p, model in models.items()}
    for parts in losses.values():
        parts.total.backward()
    exact = gradients_of(models["fp32"])
    errors = {}
    for precision in ("bf16", "fp8"):
        gradients = gradients_of(models[precision])
        assert {g.dtype for g in gradients.values()} == {torch.float32}
        errors[precision] = torch.stack([(gradients[n] - g).norm() / g.norm() for n, g in exact.items()])
    assert errors["bf16"].max() < 0.05
    assert 4 < (errors["fp8"] / errors["bf16"]).log().mean().exp() < 16
    assert losses["bf16"].main.item() == pytest.approx(losses["fp32"].main.item(), rel=0.01)
    assert losses["fp8"].main.item() == pytest.approx(losses["fp32"].main.item(), rel=0.05)


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_lower_precisions_learn(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor], precision: str
) -> None:
    """Experts, documents and all depths included: one batch by heart."""
    model, tokens = make_model(precision), make_tokens(2, 19)
    doc_ids = (torch.arange(19) >= 8).long().expand(2, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        parts = model.loss(tokens, None, doc_ids)
        (parts.total / parts.targets).backward()
        optimizer.step()
        losses.append((parts.main / parts.targets).item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert model(tokens).dtype == torch.float32


def test_equal_input_gives_equal_gradients(
    make_model: Callable[..., Transformer], make_tokens: Callable[..., Tensor]
) -> None:
    results = []
    for _ in range(2):
        model = make_model("fp8")
        model.loss(make_tokens(2, 17)).total.backward()
        results.append(gradients_of(model))
    assert results[0].keys() == dict(make_model().named_parameters()).keys()
    assert all(torch.equal(g, results[1][n]) for n, g in results[0].items())


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = Transformer(
        ModelConfig(
            vocab_size=512,
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            n_routed_experts=16,
            initializer_range=0.02,
        )
    )
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            assert (weight == 1).all(), name
        else:
            writes = name.endswith(("o_proj.weight", "down_proj.weight", "experts.down"))
            deviation = 0.02 / math.sqrt(2 * 3) if writes else 0.02  # two parts in two layers and one of MTP
            assert weight.std().item() == pytest.approx(deviation, rel=0.05), name
            assert abs(weight.mean().item()) < 0.001, name
    assert all((gate.e_score_correction_bias == 0).all() for gate in model.routers())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"q_lora_rank": None},
        {"n_shared_experts": 0},
        {"first_k_dense_replace": 3},
        {"num_nextn_predict_layers": 0},
    ],
)
def test_parameters_are_counted(make_model: Callable[..., Transformer], changes: dict[str, object]) -> None:
    model = make_model(**changes)
    counts = count_parameters(model.config)
    assert counts.total == sum(p.numel() for p in model.parameters())
    idle = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n) * 6 // 8
    repeated_heads = (len(model.mtp) - 1) * model.lm_head.weight.numel()
    assert counts.active == counts.total - idle + repeated_heads


def test_sizes_of_known_models() -> None:
    """DeepSeek's papers: V2-Lite 15.7 B and 2.4 B active, V3 671 B and 37 B active without its MTP layer."""
    lite = ModelConfig(
        vocab_size=102_400,
        hidden_size=2048,
        intermediate_size=10_944,
        moe_intermediate_size=1408,
        num_hidden_layers=27,
        num_attention_heads=16,
        num_nextn_predict_layers=0,
    )
    counts = count_parameters(lite)
    assert counts.total / 1e9 == pytest.approx(15.706, abs=0.001)
    assert counts.active / 1e9 == pytest.approx(2.451, abs=0.001)
    assert flops_per_token(lite, 4096) / 1e9 == pytest.approx(16.41, abs=0.01)
    v3 = ModelConfig(
        vocab_size=129_280,
        hidden_size=7168,
        intermediate_size=18_432,
        moe_intermediate_size=2048,
        num_hidden_layers=61,
        num_attention_heads=128,
        n_shared_experts=1,
        n_routed_experts=256,
        num_experts_per_tok=8,
        first_k_dense_replace=3,
        q_lora_rank=1536,
        num_nextn_predict_layers=0,
    )
    assert count_parameters(v3).total / 1e9 == pytest.approx(671.0, abs=0.1)
    assert count_parameters(v3).active / 1e9 == pytest.approx(36.7, abs=0.2)
    small = ModelConfig(vocab_size=65_536, num_nextn_predict_layers=0)
    assert flops_per_token(small, 4096) / 1e9 == pytest.approx(3.658, abs=0.005)


def test_mtp_costs_what_it_adds() -> None:
    """One layer with its joint, and the head again."""
    without = ModelConfig(vocab_size=65_536, num_nextn_predict_layers=0)
    one = dataclasses.replace(without, num_nextn_predict_layers=1)
    deeper = dataclasses.replace(without, num_hidden_layers=without.num_hidden_layers + 1)
    joint = 2 * 1280**2 + 3 * 1280
    layer = count_parameters(deeper).active - count_parameters(without).active
    assert count_parameters(one).active - count_parameters(without).active == layer + joint + 65_536 * 1280
