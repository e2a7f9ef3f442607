"""Import against what transformers computed once, and known ways to get it wrong against theirs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from penstock.interop import load_hf
from penstock.kernels.states import States
from penstock.model import KVCache, LossParts, Transformer
from penstock.model.moe import MoE

TOLERANCE = 1e-5


def expected_of(references: Path, name: str) -> dict[str, Tensor]:
    return load_file(references / name / "expected.safetensors")


def mean_loss(model: Transformer, ids: Tensor) -> float:
    parts = model.loss(ids)
    return (parts.main / parts.targets).item()


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """Within 1e-5 of the largest value, or absolutely if that is below 1."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max().item() <= TOLERANCE * max(1.0, theirs.abs().max().item())


def with_config(model: Transformer, **changes: object) -> Transformer:
    """The same weights under another config."""
    other = Transformer(dataclasses.replace(model.config, **changes))
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("name", ["base", "yarn", "fp8"])
def test_logits_and_loss(references: Path, name: str) -> None:
    model, expected = load_hf(references / name), expected_of(references, name)
    assert_close(model(expected["input_ids"]), expected["logits"])
    assert mean_loss(model, expected["input_ids"]) == pytest.approx(expected["loss"].item(), abs=TOLERANCE)


def stream(x: Tensor, delta: States | None) -> Tensor:
    """The residual stream as a layer gets it, the last sum not made yet."""
    return x if delta is None else x + delta.values


@pytest.mark.parametrize("name", ["base", "yarn"])
def test_hidden_states_and_routes(references: Path, name: str) -> None:
    model, expected = load_hf(references / name), expected_of(references, name)
    entering: list[Tensor] = []
    routes: dict[int, tuple[Tensor, Tensor]] = {}
    for index, block in enumerate(model.layers):
        block.register_forward_pre_hook(lambda _, inputs: entering.append(stream(*inputs[:2])))
        if isinstance(block.mlp, MoE):
            block.mlp.gate.register_forward_hook(
                lambda _, __, output, index=index: routes.__setitem__(index, output[:2])
            )
    states, _ = model.states(expected["input_ids"])
    for index, hidden in enumerate(entering):
        assert_close(hidden, expected[f"hidden.{index}"])
    assert_close(states[0], expected["final_hidden"])
    assert sorted(routes) == [1, 2]
    for index, (experts, weights) in routes.items():
        order = experts.argsort(-1)
        assert torch.equal(experts.gather(-1, order).long(), expected[f"route.{index}.experts"])
        assert_close(weights.gather(-1, order), expected[f"route.{index}.weights"])


GRADIENTS = {
    "model.embed_tokens.weight": "embed_tokens.weight",
    "lm_head.weight": "lm_head.weight",
    "model.layers.1.mlp.gate.weight": "layers.1.mlp.gate.weight",
    "model.layers.1.self_attn.kv_a_proj_with_mqa.weight": "layers.1.self_attn.kv_a_proj_with_mqa.weight",
    "model.layers.2.mlp.experts.down_proj": "layers.2.mlp.experts.down",
}


@pytest.mark.parametrize("name", ["base", "yarn"])
def test_gradients(references: Path, name: str) -> None:
    model, expected = load_hf(references / name), expected_of(references, name)
    parts = model.loss(expected["input_ids"], balance_loss_weight=0.0)
    (parts.total / parts.targets).backward()
    ours = dict(model.named_parameters())
    for theirs, name_here in GRADIENTS.items():
        gradient = ours[name_here].grad
        assert gradient is not None
        largest = expected[f"grad.{theirs}"].abs().max()
        assert largest > 0
        assert (gradient - expected[f"grad.{theirs}"]).abs().max() <= TOLERANCE * largest


@pytest.mark.parametrize("name", ["base", "yarn"])
def test_greedy_continuation(references: Path, name: str) -> None:
    model, expected = load_hf(references / name), expected_of(references, name)
    tokens = expected["greedy"][:, :16]
    cache = KVCache(model.config, len(tokens), max_tokens=28)
    with torch.no_grad():
        step = tokens
        while tokens.shape[1] < 28:
            step = model(step, cache=cache)[:, -1:].argmax(-1)
            tokens = torch.cat([tokens, step], dim=1)
    assert torch.equal(tokens, expected["greedy"])


def mtp_parts(references: Path) -> tuple[Transformer, dict[str, Tensor], LossParts]:
    model, expected = load_hf(references / "mtp"), expected_of(references, "mtp")
    return model, expected, model.loss(expected["input_ids"])


def test_mtp_logits_and_loss(references: Path) -> None:
    model, expected, parts = mtp_parts(references)
    states, _ = model.states(expected["input_ids"])
    assert_close(model.logits(states[1]), expected["mtp_logits"])
    assert (parts.mtp[0] / parts.targets).item() == pytest.approx(expected["mtp_loss"].item(), abs=TOLERANCE)


# From here on: wrong on purpose. Each must give the value that transformers gives for it, or be far off.


@pytest.mark.parametrize("name", ["base", "yarn"])
def test_trap_without_the_bias(references: Path, name: str) -> None:
    model, expected = load_hf(references / name), expected_of(references, name)
    for gate in model.routers():
        assert gate.e_score_correction_bias.abs().max() > 0
        gate.e_score_correction_bias.zero_()
    assert_trap(model, expected, "loss_without_bias")


@pytest.mark.parametrize("name", ["base", "yarn"])
def test_trap_without_interleave(references: Path, name: str) -> None:
    model, expected = load_hf(references / name), expected_of(references, name)
    assert_trap(with_config(model, rope_interleave=False), expected, "loss_without_interleave")


def assert_trap(wrong: Transformer, expected: dict[str, Tensor], trap: str) -> None:
    loss = mean_loss(wrong, expected["input_ids"])
    assert loss == pytest.approx(expected[trap].item(), abs=TOLERANCE)
    assert abs(loss - expected["loss"].item()) > 100 * TOLERANCE


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("base", {"norm_topk_prob": False}),
        ("base", {"routed_scaling_factor": 1.0}),
        ("base", {"n_group": 1, "topk_group": 1}),
        ("base", {"topk_group": 4}),
        ("base", {"rope_theta": 1000.0}),
        ("yarn", {"rope_scaling": None}),
        ("yarn", {"mscale": (1.0, 0.0)}),
        ("yarn", {"mscale": (0.707, 1.0)}),
    ],
)
def test_trap_of_another_config(references: Path, name: str, changes: dict[str, object]) -> None:
    model, expected = load_hf(references / name), expected_of(references, name)
    if "mscale" in changes:
        assert model.config.rope_scaling is not None
        mscale, all_dim = changes["mscale"]  # type: ignore[misc]
        scaling = dataclasses.replace(model.config.rope_scaling, mscale=mscale, mscale_all_dim=all_dim)
        changes = {"rope_scaling": scaling}
    wrong = with_config(model, **changes)
    assert (wrong(expected["input_ids"]) - expected["logits"]).abs().max() > 100 * TOLERANCE


def test_trap_of_the_joint_in_the_papers_order(references: Path) -> None:
    model, expected, _ = mtp_parts(references)
    weight = model.mtp[0].eh_proj.weight
    with torch.no_grad():
        weight.copy_(weight.roll(model.config.hidden_size, dims=1))
    states, _ = model.states(expected["input_ids"])
    assert (model.logits(states[1]) - expected["mtp_logits"]).abs().max() > 100 * TOLERANCE


def test_trap_of_the_state_before_the_final_norm(references: Path) -> None:
    model, expected, _ = mtp_parts(references)
    model.norm.weight.data.fill_(1.0)
    states, _ = model.states(expected["input_ids"])
    assert (model.logits(states[1]) - expected["mtp_logits"]).abs().max() > 100 * TOLERANCE


def test_trap_of_blocks_guessed_from_the_number_of_scales(references: Path) -> None:
    """192 rows and 2 scale rows are blocks of 128 and 64, not of 96 each."""
    stored = load_file(references / "fp8" / "model.safetensors")
    name = next(k for k, v in stored.items() if k.endswith("q_b_proj.weight") and v.shape[0] == 192)
    data, scale = stored[name].float(), stored[name + "_scale_inv"]
    guessed = data * scale.repeat_interleave(96, 0).repeat_interleave(data.shape[1] // scale.shape[1], 1)
    ours = dict(load_hf(references / "fp8").named_parameters())[name.removeprefix("model.")]
    assert torch.equal(ours[:96], guessed[:96])
    assert (ours[96:128] - guessed[96:128]).abs().max() > 0.01 * ours.abs().max()
    assert torch.equal(ours[128:], guessed[128:])
