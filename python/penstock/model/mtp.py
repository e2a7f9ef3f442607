"""Multi-token prediction: a layer that sees one token further than the model it follows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from penstock.config import ModelConfig
from penstock.model.attention import Rows
from penstock.model.block import Block
from penstock.model.linear import Linear, Precision, RMSNorm
from penstock.model.moe import RouterLoad

__all__ = ["MTPLayer"]


class MTPLayer(nn.Module):
    """Depth k of the chain: from depth k - 1's state at i and token i + k to the state that predicts
    token i + k + 1. Embedding and head are the model's own.

    The joint's input is ``[enorm(embedding) | hnorm(state)]``: the embedding first, as in published
    checkpoints and not as in the report's formula. States are taken after their final norm: the model's
    at depth 1, ``norm`` of the depth before at others.
    """

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = Linear(2 * config.hidden_size, config.hidden_size, precision)
        self.block = Block(config, precision, moe=True)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, embedding: Tensor, state: Tensor, rows: Rows) -> tuple[Tensor, RouterLoad | None]:
        """One depth.

        Parameters
        ----------
        embedding
            ``[B, S, H]``: of token i + k at position i.
        state
            ``[B, S, H]``: of depth k - 1 at position i.
        rows
            Positions and documents are those of i, so that RoPE's distances stay the same at any depth.

        Returns
        -------
        state, load
            ``[B, S, H]``, normed: ready for the head and for the next depth.
        """
        joint = torch.cat([self.enorm(embedding), self.hnorm(state)], dim=-1)
        x, delta, load = self.block(self.eh_proj(joint), None, rows)
        return self.norm.add(x, delta)[1], load
