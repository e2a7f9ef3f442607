"""How large a model is and what a token costs, from its shape alone."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.config import ModelConfig

__all__ = ["ParameterCounts", "count_parameters", "flops_per_token"]


@dataclass(frozen=True)
class ParameterCounts:
    """Trainable numbers of a model; the router's bias is not one of them."""

    total: int
    active: int
    """Those that multiply a token: without the embedding and the experts not chosen; the head counts
    once for the next token and once for each depth of multi-token prediction."""


def count_parameters(config: ModelConfig) -> ParameterCounts:
    """Parameters in all and per token, multi-token prediction included."""
    c = config
    vocabulary = c.vocab_size * c.hidden_size
    attention, norms = _attention(c), 2 * c.hidden_size
    dense_layers = min(c.first_k_dense_replace, c.num_hidden_layers)
    moe_layers = c.num_hidden_layers - dense_layers
    dense = dense_layers * (attention + norms + 3 * c.hidden_size * c.intermediate_size)
    depth = c.num_nextn_predict_layers
    joints = depth * (2 * c.hidden_size**2 + 3 * c.hidden_size)

    def with_experts(experts: int) -> int:
        blocks = (moe_layers + depth) * (attention + norms + _feed_forward(c, experts))
        return blocks + dense + joints + c.hidden_size

    return ParameterCounts(
        total=with_experts(c.n_routed_experts) + 2 * vocabulary,
        active=with_experts(c.num_experts_per_tok) + (1 + depth) * vocabulary,
    )


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Floating-point operations of training on one token: forward and backward.

    Six for each active parameter, and the attention products counted causally (a token looks at
    ``seq_len / 2`` others), which is less than tools report that count the whole square. Recomputation
    and padding are not counted.
    """
    c = config
    layers = c.num_hidden_layers + c.num_nextn_predict_layers
    attention = 6 * layers * c.num_attention_heads * (c.qk_head_dim + c.v_head_dim) * seq_len / 2
    return 6 * count_parameters(c).active + attention


def _attention(c: ModelConfig) -> int:
    heads = c.num_attention_heads
    if c.q_lora_rank is None:
        queries = c.hidden_size * heads * c.qk_head_dim
    else:
        queries = c.q_lora_rank * (c.hidden_size + 1 + heads * c.qk_head_dim)
    latent = c.hidden_size * (c.kv_lora_rank + c.qk_rope_head_dim) + c.kv_lora_rank
    expand = c.kv_lora_rank * heads * (c.qk_nope_head_dim + c.v_head_dim)
    return queries + latent + expand + heads * c.v_head_dim * c.hidden_size


def _feed_forward(c: ModelConfig, routed_experts: int) -> int:
    router = c.n_routed_experts * c.hidden_size
    return router + 3 * c.hidden_size * c.moe_intermediate_size * (routed_experts + c.n_shared_experts)
