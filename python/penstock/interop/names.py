"""Which tensors of a published checkpoint make up each weight of ours.

Everything is one rule: a weight of ours, cut into equal pieces along its rows, is the listed tensors on
disk in order. So a plain weight is one piece, gate and up are two, and ``[E, 2I, H]`` are 2E.
"""

from __future__ import annotations

from dataclasses import dataclass

from penstock.config import ModelConfig

__all__ = ["Copy", "Weight", "copies", "weights"]


@dataclass(frozen=True)
class Weight:
    """One row of the table."""

    ours: str
    """Key of ``Transformer.state_dict()``."""
    pieces: tuple[str, ...]
    """Names on disk, in order."""


@dataclass(frozen=True)
class Copy:
    """A tensor that the published layout repeats in a layer of multi-token prediction."""

    name: str
    of: str


def weights(config: ModelConfig) -> list[Weight]:
    """The whole table of a model."""
    table = [
        Weight("embed_tokens.weight", ("model.embed_tokens.weight",)),
        Weight("norm.weight", ("model.norm.weight",)),
        Weight("lm_head.weight", ("lm_head.weight",)),
    ]
    for i in range(config.num_hidden_layers):
        moe = i >= config.first_k_dense_replace
        table += _block(config, f"layers.{i}.", f"model.layers.{i}.", moe)
    for depth in range(config.num_nextn_predict_layers):
        ours, disk = f"mtp.{depth}.", f"model.layers.{config.num_hidden_layers + depth}."
        table += [
            Weight(f"{ours}enorm.weight", (f"{disk}enorm.weight",)),
            Weight(f"{ours}hnorm.weight", (f"{disk}hnorm.weight",)),
            Weight(f"{ours}eh_proj.weight", (f"{disk}eh_proj.weight",)),
            Weight(f"{ours}norm.weight", (f"{disk}shared_head.norm.weight",)),
            *_block(config, f"{ours}block.", disk, moe=True),
        ]
    return table


def copies(config: ModelConfig) -> list[Copy]:
    """What is written twice: embedding and head, in each layer of multi-token prediction."""
    layers = range(config.num_hidden_layers, config.num_hidden_layers + config.num_nextn_predict_layers)
    return [
        copy
        for i in layers
        for copy in (
            Copy(f"model.layers.{i}.embed_tokens.weight", "model.embed_tokens.weight"),
            Copy(f"model.layers.{i}.shared_head.head.weight", "lm_head.weight"),
        )
    ]


def _block(config: ModelConfig, ours: str, disk: str, moe: bool) -> list[Weight]:
    same = ["input_layernorm.weight", "post_attention_layernorm.weight"]
    if config.q_lora_rank is None:
        same += ["self_attn.q_proj.weight"]
    else:
        same += ["self_attn.q_a_proj.weight", "self_attn.q_a_layernorm.weight", "self_attn.q_b_proj.weight"]
    same += [
        "self_attn.kv_a_proj_with_mqa.weight",
        "self_attn.kv_a_layernorm.weight",
        "self_attn.kv_b_proj.weight",
        "self_attn.o_proj.weight",
    ]
    if moe:
        same += ["mlp.gate.weight", "mlp.gate.e_score_correction_bias"]
    table = [Weight(ours + name, (disk + name,)) for name in same]
    if not moe:
        return table + _feed_forward(f"{ours}mlp.", f"{disk}mlp.")
    if config.n_shared_experts:
        table += _feed_forward(f"{ours}mlp.shared_experts.", f"{disk}mlp.shared_experts.")
    experts = [f"{disk}mlp.experts.{i}." for i in range(config.n_routed_experts)]
    gate_up = tuple(f"{e}{part}_proj.weight" for e in experts for part in ("gate", "up"))
    return [
        *table,
        Weight(f"{ours}mlp.experts.gate_up", gate_up),
        Weight(f"{ours}mlp.experts.down", tuple(f"{e}down_proj.weight" for e in experts)),
    ]


def _feed_forward(ours: str, disk: str) -> list[Weight]:
    return [
        Weight(f"{ours}gate_up_proj.weight", (f"{disk}gate_proj.weight", f"{disk}up_proj.weight")),
        Weight(f"{ours}down_proj.weight", (f"{disk}down_proj.weight",)),
    ]
