"""Against the installed transformers, on shapes that no stored reference has, in both directions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from penstock.config import ModelConfig, RopeScaling
from penstock.errors import CheckpointError
from penstock.interop import fp8_blocks, load_hf, save_hf
from penstock.model import Transformer
from penstock.model.rope import inverse_frequencies

transformers = pytest.importorskip("transformers")

# rms_norm_eps is large, so that the latent norms' fixed 1e-6 shows; no two widths are equal.
TINY = ModelConfig(
    vocab_size=97,
    hidden_size=48,
    intermediate_size=80,
    moe_intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=3,
    n_shared_experts=2,
    n_routed_experts=12,
    num_experts_per_tok=3,
    n_group=3,
    topk_group=2,
    first_k_dense_replace=1,
    kv_lora_rank=20,
    q_lora_rank=28,
    qk_rope_head_dim=8,
    qk_nope_head_dim=16,
    v_head_dim=12,
    rms_norm_eps=0.03,
    rope_theta=5000.0,
    num_nextn_predict_layers=0,
    initializer_range=0.08,
    bos_token_id=0,
    eos_token_id=1,
)
YARN = dataclasses.replace(
    TINY,
    q_lora_rank=None,
    max_position_embeddings=4096,
    rope_interleave=False,
    norm_topk_prob=False,
    first_k_dense_replace=0,
    rope_scaling=RopeScaling(
        factor=8.0, original_max_position_embeddings=64, beta_fast=16.0, mscale=0.707, mscale_all_dim=0.5
    ),
)
WITHOUT_MSCALE = dataclasses.replace(
    TINY,
    n_group=1,
    topk_group=1,
    rope_scaling=RopeScaling(factor=4.0, original_max_position_embeddings=32, mscale=0.0, mscale_all_dim=0.0),
)
CONFIGS = {"plain": TINY, "yarn": YARN, "yarn without mscale": WITHOUT_MSCALE}


def random_model(config: ModelConfig) -> Transformer:
    """Norms away from one, a bias away from zero, router weights that decide."""
    torch.manual_seed(3)
    model = Transformer(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.add_(0.2 * torch.randn(weight.shape))
            elif "gate.weight" in name:
                weight.mul_(5)
        for gate in model.routers():
            gate.e_score_correction_bias.normal_(0, 0.1)
    return model


def in_transformers(folder: Path, **options: Any) -> Any:
    return transformers.DeepseekV3ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", **options
    )


def ids(length: int = 70) -> torch.Tensor:
    return torch.randint(0, 97, (2, length), generator=torch.Generator().manual_seed(11))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_transformers_loads_what_we_save(config: ModelConfig, tmp_path: Path) -> None:
    model = random_model(config)
    save_hf(model, tmp_path)
    theirs, info = in_transformers(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        difference = (theirs(input_ids=ids()).logits - model(ids())).abs().max()
    assert difference < 1e-5
    assert load_hf(tmp_path).config == config


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_we_load_what_transformers_saves(config: ModelConfig, tmp_path: Path) -> None:
    save_hf(random_model(config), tmp_path / "ours")
    theirs = in_transformers(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_hf(tmp_path / "theirs")
    with torch.no_grad():
        difference = (theirs(input_ids=ids()).logits - model(ids())).abs().max()
    assert difference < 1e-5


def test_shards_of_transformers(tmp_path: Path) -> None:
    save_hf(random_model(TINY), tmp_path / "ours")
    theirs = in_transformers(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    model = load_hf(tmp_path / "theirs")
    with torch.no_grad():
        assert (theirs(input_ids=ids()).logits - model(ids())).abs().max() < 1e-5


def test_mtp_layers_are_found_by_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(TINY, num_nextn_predict_layers=1)
    model = random_model(config)
    save_hf(model, tmp_path)
    monkeypatch.setattr(
        transformers.DeepseekV3ForCausalLM, "_keys_to_ignore_on_load_unexpected", [r"model\.layers\.3\..*"]
    )
    theirs = in_transformers(tmp_path)
    mtp = transformers.modeling_layers.MtpModel.from_pretrained(theirs)
    tokens = ids(30)
    shifted = torch.arange(1, 30)[None]
    mask = torch.full((29, 29), float("-inf")).triu(1)[None, None]
    with torch.no_grad():
        state = theirs.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
        embedded = theirs.model.embed_tokens(tokens[:, 1:])
        rope = theirs.model.rotary_emb(embedded, position_ids=shifted)
        expected = mtp._project_to_logits(mtp.layers[0](embedded, state, rope, mask, shifted, None))
        states, _ = model.states(tokens)
        assert (model.logits(states[1]) - expected).abs().max() < 1e-5


def test_a_model_whose_mtp_layers_transformers_dropped(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, num_nextn_predict_layers=1)
    save_hf(random_model(config), tmp_path / "ours")
    in_transformers(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match=r"model\.layers\.3\..*mtp_layers=0"):
        load_hf(tmp_path / "theirs")
    assert load_hf(tmp_path / "theirs", mtp_layers=0).config == TINY


def test_old_style_rope_keys(tmp_path: Path) -> None:
    """transformers 4 and DeepSeek's own config: rope_theta and rope_scaling instead of rope_parameters."""
    model = random_model(YARN)
    save_hf(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    del config["rope_scaling"]["rope_type"], config["rope_scaling"]["rope_theta"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_hf(tmp_path).config == YARN
    with torch.no_grad():
        assert (in_transformers(tmp_path)(input_ids=ids()).logits - model(ids())).abs().max() < 1e-5


def test_transformers_dequantises_our_blocks() -> None:
    """Where every dimension is a multiple of 128 its guess of the block is right; at 576 rows it raises."""
    theirs = pytest.importorskip("transformers.integrations.finegrained_fp8").Fp8Dequantize(None)
    weight = torch.randn(256, 384, generator=torch.Generator().manual_seed(0)).cumsum(0)
    data, scale = fp8_blocks.quantise(weight)
    assert len(scale.unique()) > 1
    assert torch.equal(theirs._dequantize_one(data, scale, torch.float32), fp8_blocks.dequantise(data, scale))
    with pytest.raises(ValueError, match="576"):
        theirs._dequantize_one(*fp8_blocks.quantise(torch.randn(576, 128)), torch.float32)


def test_a_silent_mscale_means_none(tmp_path: Path) -> None:
    """To transformers and to us, and other than the 1 that a recipe of ours has by default."""
    model = random_model(WITHOUT_MSCALE)
    save_hf(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for place in ("rope_parameters", "rope_scaling"):
        del config[place]["mscale"], config[place]["mscale_all_dim"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_hf(tmp_path).config == WITHOUT_MSCALE
    with torch.no_grad():
        assert (in_transformers(tmp_path)(input_ids=ids()).logits - model(ids())).abs().max() < 1e-5


@pytest.mark.parametrize(("fast", "slow", "factor"), [(32, 1, 40.0), (16, 2, 4.0), (1, 1, 8.0)])
def test_frequencies_of_real_sizes(fast: int, slow: int, factor: float) -> None:
    """V3's own 64 rotary dimensions, where the ramp begins and ends inside."""
    rope = {
        "rope_type": "yarn",
        "rope_theta": TINY.rope_theta,
        "factor": factor,
        "original_max_position_embeddings": 4096,
        "beta_fast": fast,
        "beta_slow": slow,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    }
    theirs = transformers.DeepseekV3Config(qk_rope_head_dim=64, rope_parameters=dict(rope))
    expected, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["yarn"](theirs)
    del rope["rope_type"], rope["rope_theta"]
    ours = inverse_frequencies(
        dataclasses.replace(TINY, qk_rope_head_dim=64, rope_scaling=RopeScaling(**rope))
    )  # type: ignore[arg-type]
    assert (ours / expected - 1).abs().max() < 1e-6
