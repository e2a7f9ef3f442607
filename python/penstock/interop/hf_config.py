"""``config.json`` of a published DeepSeek-V3-style model, to and from ``ModelConfig``.

A key that this model cannot honour is refused: a wrong guess would load and give other logits.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from penstock.config import ModelConfig, RopeScaling
from penstock.errors import CheckpointError, ConfigError
from penstock.interop.fp8_blocks import BLOCK

__all__ = ["read_config", "to_hf", "write_config_text"]

# Names are the same on both sides but for RoPE, which has its own functions below.
_SAME = [f.name for f in dataclasses.fields(ModelConfig) if f.name not in ("rope_theta", "rope_scaling")]

# What transformers takes where a file is silent and ModelConfig's own default differs. A silent
# num_nextn_predict_layers is 0 here: weights that nevertheless are there are reported as unexpected.
_DEFAULTS: dict[str, Any] = {
    "q_lora_rank": 1536,
    "n_shared_experts": 1,
    "initializer_range": 0.02,
    "num_nextn_predict_layers": 0,
}

_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "moe_intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "n_routed_experts",
    "num_experts_per_tok",
    "n_group",
    "topk_group",
    "first_k_dense_replace",
    "kv_lora_rank",
    "qk_rope_head_dim",
    "qk_nope_head_dim",
    "v_head_dim",
)

# Key: the only value this model computes, also what a silent file means.
_FIXED: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
}

FP8_QUANTIZATION = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [BLOCK, BLOCK],
}


def read_config(folder: Path) -> ModelConfig:
    """The shape that ``folder/config.json`` states.

    Raises
    ------
    CheckpointError
        The file is missing or no JSON object, a needed key is missing, or a value asks for something
        that this model does not compute; the message names the key.
    """
    path = folder / "config.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; expected a model folder") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(stored, dict):
        raise CheckpointError(f"{path}: expected a JSON object, not {type(stored).__name__}")
    _refuse_other_models(stored, path)
    given = {k: stored[k] for k in _SAME if k in stored and (stored[k] is not None or k == "q_lora_rank")}
    return _build(stored, {**_DEFAULTS, **given}, path)


def _build(stored: Mapping[str, Any], keys: dict[str, Any], path: Path) -> ModelConfig:
    if "num_mtp_layers" in stored:
        keys["num_nextn_predict_layers"] = stored["num_mtp_layers"]
    if isinstance(keys.get("eos_token_id"), list):
        keys["eos_token_id"] = keys["eos_token_id"][0]
    missing = [k for k in _REQUIRED if k not in keys]
    if missing:
        raise CheckpointError(f"{path}: missing {', '.join(missing)}")
    for key, value in keys.items():
        _check_type(key, value, path)
    theta, scaling = _rope(stored, path)
    try:
        return ModelConfig(**keys, rope_theta=theta, rope_scaling=scaling)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from error


_KINDS: dict[str, type] = {"norm_topk_prob": bool, "rope_interleave": bool}
_REAL = ("routed_scaling_factor", "rms_norm_eps", "initializer_range")
_MAY_BE_NONE = ("q_lora_rank", "bos_token_id", "eos_token_id")


def _check_type(key: str, value: Any, path: Path) -> None:
    if value is None and key in _MAY_BE_NONE:
        return
    if key in _REAL:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
    else:
        good = type(value) is _KINDS.get(key, int)
    if not good or (not isinstance(value, bool) and value < 0):
        raise CheckpointError(f"{path}: {key} = {value!r} is not a value it can have")


def _refuse_other_models(stored: Mapping[str, Any], path: Path) -> None:
    fixed = {**_FIXED, "num_key_value_heads": stored.get("num_attention_heads")}
    for key, only in fixed.items():
        value = stored.get(key)
        if value is not None and value != only:
            raise CheckpointError(f"{path}: {key} = {value!r}, but only {only!r} is supported")
    quantization = stored.get("quantization_config")
    if quantization is None:
        return
    for key in ("quant_method", "weight_block_size"):
        found = quantization.get(key) if isinstance(quantization, dict) else quantization
        if found != FP8_QUANTIZATION[key]:
            raise CheckpointError(
                f"{path}: quantization_config.{key} = {found!r}, "
                f"but only {FP8_QUANTIZATION[key]!r} is supported"
            )


def _rope(stored: Mapping[str, Any], path: Path) -> tuple[float, RopeScaling | None]:
    """``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling`` (before)."""
    new = stored.get("rope_parameters")
    old = stored.get("rope_scaling")
    for key, value in (("rope_parameters", new), ("rope_scaling", old)):
        if value is not None and not isinstance(value, dict):
            raise CheckpointError(f"{path}: {key} = {value!r} is no object")
    values = dict(new or old or {})
    theta = values.get("rope_theta", stored.get("rope_theta", 10_000.0))
    kind = values.get("rope_type", values.get("type", "default"))
    known = {f.name for f in dataclasses.fields(RopeScaling)} - {"rope_type"}
    numbers = {"rope_theta": theta, **{k: v for k, v in values.items() if k in known and v is not None}}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise CheckpointError(f"{path}: {key} = {value!r} is no number")
    if kind == "default":
        return float(theta), None
    unsupported = [k for k in ("attention_factor", "partial_rotary_factor") if values.get(k) is not None]
    if kind != "yarn" or unsupported or values.get("truncate") is False:
        raise CheckpointError(f"{path}: RoPE of {values} is not supported: only default and plain yarn are")
    missing = [k for k in ("factor", "original_max_position_embeddings") if k not in numbers]
    if missing:
        raise CheckpointError(f"{path}: RoPE of type yarn needs {', '.join(missing)}")
    # To transformers a silent mscale means that none applies, not 1.
    scaling = {"mscale": 0.0, "mscale_all_dim": 0.0, **{k: v for k, v in numbers.items() if k in known}}
    return float(theta), RopeScaling(**scaling)


def to_hf(config: ModelConfig, dtype: str, fp8: bool) -> dict[str, Any]:
    """The content of ``config.json``, for transformers 4 and 5 and for servers that read V3's own keys."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        rope |= dataclasses.asdict(config.rope_scaling)
    hf = {
        "architectures": ["DeepseekV3ForCausalLM"],
        **_FIXED,
        **{name: getattr(config, name) for name in _SAME},
        "num_key_value_heads": config.num_attention_heads,
        "head_dim": config.qk_rope_head_dim,
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,
        "dtype": dtype,
        "torch_dtype": dtype,
        "use_cache": True,
    }
    if config.rope_scaling is not None:
        hf["rope_scaling"] = {"type": "yarn", **rope}
    if fp8:
        hf["quantization_config"] = FP8_QUANTIZATION
    return hf


def write_config_text(config: ModelConfig, dtype: str, fp8: bool) -> str:
    """``to_hf`` as the text of the file."""
    return json.dumps(to_hf(config, dtype, fp8), indent=2, sort_keys=True) + "\n"
