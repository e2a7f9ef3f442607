"""Round trips, FP8 blocks, and files that are wrong in every way we know."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from penstock.config import ModelConfig
from penstock.errors import CheckpointError
from penstock.interop import fp8_blocks, load_hf, save_hf, tensor_files
from penstock.interop.names import copies, weights
from penstock.model import Transformer

CONFIG = ModelConfig(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=40,
    moe_intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    n_shared_experts=1,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_group=2,
    topk_group=1,
    kv_lora_rank=16,
    qk_rope_head_dim=4,
    qk_nope_head_dim=8,
    v_head_dim=8,
    num_nextn_predict_layers=2,
    initializer_range=0.1,
)


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    for gate in model.routers():
        gate.e_score_correction_bias.normal_()
    return model


@pytest.fixture
def saved(model: Transformer, tmp_path: Path) -> Path:
    save_hf(model, tmp_path / "saved")
    return tmp_path / "saved"


def test_the_table_holds_every_weight_once(model: Transformer) -> None:
    for config in (CONFIG, dataclasses.replace(CONFIG, q_lora_rank=12, n_shared_experts=0)):
        ours = [w.ours for w in weights(config)]
        assert sorted(ours) == sorted(Transformer(config).state_dict())
        disk = [p for w in weights(config) for p in w.pieces] + [c.name for c in copies(config)]
        assert len(set(disk)) == len(disk)


def test_names_are_the_published_ones(references: Path) -> None:
    for name in ("base", "yarn"):
        published = json.loads((references / name / "tensor_names.json").read_text())
        config = load_hf(references / name).config
        assert {p for w in weights(config) for p in w.pieces} == set(published)
    mtp = load_file(references / "mtp" / "model.safetensors")
    config = load_hf(references / "mtp").config
    assert {p for w in weights(config) for p in w.pieces} | {c.name for c in copies(config)} == set(mtp)


def test_round_trip_is_bitwise(model: Transformer, saved: Path) -> None:
    again = load_hf(saved)
    assert again.config == CONFIG
    state = again.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert all(p.requires_grad for p in again.parameters())


def test_bfloat16_keeps_the_bias_in_fp32(model: Transformer, tmp_path: Path) -> None:
    save_hf(model, tmp_path, dtype=torch.bfloat16)
    stored = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for n, t in stored.items() if "correction_bias" not in n} == {torch.bfloat16}
    assert {t.dtype for n, t in stored.items() if "correction_bias" in n} == {torch.float32}
    again = load_hf(tmp_path).state_dict()
    for name, value in model.state_dict().items():
        rounded = value if "correction_bias" in name else value.bfloat16().float()
        assert torch.equal(rounded, again[name])


def test_shards_round_trip(model: Transformer, tmp_path: Path) -> None:
    save_hf(model, tmp_path, max_shard_bytes=20_000)
    shards = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((tmp_path / tensor_files.INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(
        t.numel() * t.element_size() for s in shards for t in load_file(tmp_path / s).values()
    )
    assert all(p.stat().st_size < 40_000 for p in tmp_path.glob("*.safetensors"))
    again = load_hf(tmp_path).state_dict()
    assert all(torch.equal(v, again[n]) for n, v in model.state_dict().items())


def dequantised_by_a_loop(data: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    out = torch.empty(data.shape)
    for r in range(0, data.shape[0], 128):
        for c in range(0, data.shape[1], 128):
            out[r : r + 128, c : c + 128] = data[r : r + 128, c : c + 128].float() * scale[r // 128, c // 128]
    return out


@pytest.mark.parametrize("shape", [(576, 256), (128, 128), (130, 1), (64, 300)])
def test_fp8_blocks_against_a_loop(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator) * torch.logspace(-6, 2, shape[0])[:, None]
    data, scale = fp8_blocks.quantise(weight)
    assert tuple(scale.shape) == (-(-shape[0] // 128), -(-shape[1] // 128))
    assert torch.equal(fp8_blocks.dequantise(data, scale), dequantised_by_a_loop(data, scale))
    for r in range(scale.shape[0]):
        block = weight[r * 128 : r * 128 + 128, :128]
        error = (dequantised_by_a_loop(data, scale)[r * 128 : r * 128 + 128, :128] - block).abs()
        # e4m3 keeps four significant bits, down to a fixed step of 2^-10 multipliers for subnormals.
        assert (error <= block.abs() / 16 + scale[r, 0] * 2**-10).all()


def test_fp8_export_loads_as_its_exact_values(model: Transformer, tmp_path: Path) -> None:
    save_hf(model, tmp_path, fp8=True)
    stored = load_file(tmp_path / "model.safetensors")
    quantised = {n for n, t in stored.items() if t.dtype == torch.float8_e4m3fn}
    assert quantised == {n for n in stored if n + "_scale_inv" in stored}
    assert "model.layers.1.mlp.experts.0.gate_proj.weight" in quantised
    for kept in ("embed_tokens", "lm_head", "norm", "gate.weight", "eh_proj", "head.weight", "bias"):
        assert not [n for n in quantised if kept in n.replace("gate_proj", "")]
    again = load_hf(tmp_path)
    state = again.state_dict()
    for weight in weights(CONFIG):
        pieces = [
            dequantised_by_a_loop(stored[n], stored[n + "_scale_inv"]) if n in quantised else stored[n]
            for n in weight.pieces
        ]
        assert torch.equal(torch.cat(pieces).view(state[weight.ours].shape), state[weight.ours])
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["quant_method"] == "fp8"


def test_saving_refuses_a_folder_with_a_model(model: Transformer, saved: Path) -> None:
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    with pytest.raises(CheckpointError, match="already holds"):
        save_hf(model, saved)
    assert before == {p.name: p.read_bytes() for p in saved.iterdir()}


def test_a_failed_save_leaves_no_model(
    model: Transformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        save_hf(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


Tensors = dict[str, torch.Tensor]
EMBEDDING = "model.embed_tokens.weight"
KV_A = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"


def without(name: str) -> Callable[[Tensors], object]:
    return lambda t: t.pop(name)


def put(name: str, value: torch.Tensor) -> Callable[[Tensors], object]:
    return lambda t: t.update({name: value})


DAMAGE: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "missing": (without("model.layers.1.mlp.experts.2.up_proj.weight"), r"missing: .*experts\.2\.up_proj"),
    "missing mtp": (without("model.layers.3.enorm.weight"), r"missing: model\.layers\.3\.enorm"),
    "unexpected": (put("model.layers.9.surprise", torch.ones(1)), r"unexpected: model\.layers\.9\.surprise"),
    "shape": (put(KV_A, torch.ones(21, 32)), r"kv_a_proj_with_mqa.* shape \[21, 32\].*\[20, 32\]"),
    "transposed": (put(KV_A, torch.ones(32, 20)), r"shape \[32, 20\]"),
    "integers": (put(EMBEDDING, torch.ones(60, 32, dtype=torch.int32)), "int32"),
    "other copy": (put("model.layers.2.embed_tokens.weight", torch.ones(60, 32)), "differs from model.embed"),
    "fp8 without scale": (put(KV_A, torch.ones(20, 32).to(torch.float8_e4m3fn)), "scale_inv is missing"),
    "scale without fp8": (put(KV_A + "_scale_inv", torch.ones(1, 1)), "yet has a"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_wrong_tensors_are_named(saved: Path, damage: Callable[[Tensors], object], message: str) -> None:
    tensors = load_file(saved / "model.safetensors")
    damage(tensors)
    save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        load_hf(saved)


def test_frequencies_of_old_checkpoints_are_ignored(model: Transformer, saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    save_file(tensors, saved / "model.safetensors")
    assert torch.equal(load_hf(saved).lm_head.weight, model.lm_head.weight)


def test_a_scale_of_another_block_size_is_refused(model: Transformer, tmp_path: Path) -> None:
    save_hf(model, tmp_path, fp8=True)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[KV_A + "_scale_inv"] = torch.ones(2, 1)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"shape \[2, 1\].*\[1, 1\] blocks of 128"):
        load_hf(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_cut_file_is_refused(saved: Path, kept: int) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="cut or damaged"):
        load_hf(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i["weight_map"].update({EMBEDDING: "../elsewhere.safetensors"}), "no plain file name"),
        (lambda i: i["weight_map"].update({EMBEDDING: "lost.safetensors"}), "lost.safetensors: missing"),
        (lambda i: i["weight_map"].pop(EMBEDDING), "holds other tensors"),
        (lambda i: i.pop("weight_map"), "expected JSON with a weight_map"),
        (lambda i: i.update(weight_map=[1]), "must map"),
    ],
)
def test_a_wrong_index_is_refused(
    saved: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    names = load_file(saved / "model.safetensors")
    index: dict[str, Any] = {"weight_map": dict.fromkeys(names, "model.safetensors")}
    change(index)
    (saved / tensor_files.INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        load_hf(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "llama"),
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("tie_word_embeddings", True),
        ("scoring_func", "softmax"),
        ("topk_method", "greedy"),
        ("moe_layer_freq", 2),
        ("num_key_value_heads", 1),
        ("hidden_size", "32"),
        ("hidden_size", -32),
        ("num_hidden_layers", True),
        ("kv_lora_rank", None),
        ("n_group", 3),
        ("rms_norm_eps", "small"),
        ("rope_parameters", {"rope_type": "linear", "factor": 2.0}),
        ("rope_parameters", {"rope_type": "yarn"}),
        ("rope_parameters", {"rope_type": "default", "rope_theta": "1e4"}),
        ("rope_parameters", [1]),
        ("quantization_config", {"quant_method": "awq"}),
        ("quantization_config", {"quant_method": "fp8", "weight_block_size": [64, 64]}),
    ],
)
def test_a_config_we_cannot_honour_is_refused(saved: Path, key: str, value: object) -> None:
    path = saved / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=str(path)) as error:
        load_hf(saved)
    assert key.split("_")[0] in str(error.value).lower()


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00"])
def test_a_config_that_is_no_object_is_refused(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_hf(saved)


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        load_hf(tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        load_hf(tmp_path / "nowhere")
