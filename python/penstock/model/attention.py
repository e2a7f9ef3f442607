"""Multi-head latent attention: keys and values of all heads grow from one small latent a token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from penstock.config import ModelConfig
from penstock.kernels import attention, gemm, mla
from penstock.kernels.states import States, reads_rows
from penstock.model.cache import KVCache
from penstock.model.linear import Linear, Precision, RMSNorm
from penstock.model.rope import softmax_scale

__all__ = ["Attention", "Rows"]

# Latent norms keep this eps whatever rms_norm_eps says, as published checkpoints were trained.
LATENT_NORM_EPS = 1e-6


@dataclass(frozen=True)
class Rows:
    """What the layers of one pass share about its rows."""

    cos: Tensor
    """FP32 ``[B, S, qk_rope_head_dim]``."""
    sin: Tensor
    documents: attention.Documents | None
    """Attention stays within them. None: each row is one document."""
    valid: Tensor | None
    """Bool ``[B, S]``: positions that are neither padding nor fed from another document. None: all."""


class Attention(nn.Module):
    """MLA of DeepSeek-V2 and V3; ``q_lora_rank`` None means queries without a latent of their own."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.config = config
        self.scale = softmax_scale(config)
        hidden, heads = config.hidden_size, config.num_attention_heads
        if config.q_lora_rank is None:
            self.q_proj = Linear(hidden, heads * config.qk_head_dim, precision)
        else:
            self.q_a_proj = Linear(hidden, config.q_lora_rank, precision)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, LATENT_NORM_EPS)
            self.q_b_proj = Linear(config.q_lora_rank, heads * config.qk_head_dim, precision)
        self.kv_a_proj_with_mqa = Linear(hidden, config.kv_lora_rank + config.qk_rope_head_dim, precision)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank, LATENT_NORM_EPS)
        self.kv_b_proj = Linear(
            config.kv_lora_rank, heads * (config.qk_nope_head_dim + config.v_head_dim), precision
        )
        self.o_proj = Linear(heads * config.v_head_dim, hidden, precision)

    def forward(self, x: States, rows: Rows, cache: KVCache | None = None, layer: int = 0) -> States:
        """Mix the tokens of each document.

        Parameters
        ----------
        x
            ``[B, S, H]``, normed.
        cache
            Holds earlier tokens of the same rows under ``layer``; the new ones are added to it.

        Returns
        -------
        States
            ``[B, S, H]``, to be added to the residual stream.
        """
        q_nope, q_rope, latent, rope_key = self._heads(x, rows, cache is not None)
        if cache is not None and cache.length > 0:
            mixed = States(
                self._attend_latents(q_nope, q_rope, *cache.append(layer, latent.values, rope_key))
            )
        else:
            if cache is not None:
                cache.append(layer, latent.values, rope_key)
            kv = self.kv_b_proj(latent)
            by_head = kv.values.unflatten(-1, (self.config.num_attention_heads, -1))
            mixed = attention.latent_attention(
                q_nope, q_rope, States(by_head, None, kv.gradient), rope_key, self.scale, rows.documents,
                quantize=reads_rows(self.o_proj.precision),
            )  # fmt: skip
        out: States = self.o_proj(States(mixed.values.flatten(2), mixed.rows))
        return out

    def _heads(self, x: States, rows: Rows, keep: bool) -> tuple[Tensor, Tensor, States, Tensor]:
        """Queries ``[B, S, heads, qk_nope_head_dim]`` and ``[B, S, heads, qk_rope_head_dim]``, and what keys
        and values are made of: the normed ``[B, S, kv_lora_rank]``, whose values are read if ``keep``, and
        ``[B, S, qk_rope_head_dim]``.
        """
        c, precision = self.config, self.kv_b_proj.precision
        first, kv_a = self.q_proj if c.q_lora_rank is None else self.q_a_proj, self.kv_a_proj_with_mqa
        products = gemm.joint_linear(x, (first.weight, kv_a.weight), precision)
        q, joint = products[0], products[1].values
        if c.q_lora_rank is not None:
            q = self.q_b_proj(self.q_a_layernorm.states(q.values, None, precision, keep=False)[1])
        by_head = q.values.view(*q.values.shape[:-1], c.num_attention_heads, c.qk_head_dim)
        latent, rope_key = torch.split(joint, [c.kv_lora_rank, c.qk_rope_head_dim], -1)
        q_nope, q_rope, rope_key = mla.rotate_heads(
            States(by_head, None, q.gradient), rope_key, rows.cos, rows.sin, c.rope_interleave
        )
        _, normed = self.kv_a_layernorm.states(latent, None, precision, keep)
        return q_nope, q_rope, normed, rope_key

    def _attend_latents(self, q_nope: Tensor, q_rope: Tensor, latents: Tensor, rope_keys: Tensor) -> Tensor:
        """The same attention of the last tokens over all, with kv_b moved to the queries' side.

        Then a step costs nothing per cached token but the products with its latent.
        """
        c = self.config
        w = self.kv_b_proj.weight.to(q_nope.dtype).view(c.num_attention_heads, -1, c.kv_lora_rank)
        w_k, w_v = w[:, : c.qk_nope_head_dim], w[:, c.qk_nope_head_dim :]
        q_latent = torch.einsum("bshn,hnc->bshc", q_nope, w_k)
        scores = torch.einsum("bshc,btc->bhst", q_latent, latents)
        scores = (scores + torch.einsum("bshr,btr->bhst", q_rope, rope_keys)).float() * self.scale
        new, held = scores.shape[-2:]
        future = torch.ones(new, held, dtype=torch.bool, device=scores.device).triu(held - new + 1)
        shares = scores.masked_fill(future, float("-inf")).softmax(-1).to(q_nope.dtype)
        mixed = torch.einsum("bhst,btc->bshc", shares, latents)
        return torch.einsum("bshc,hvc->bshv", mixed, w_v)
