"""One layer: attention and a feed-forward part, each behind a norm and added to the residual stream."""

from __future__ import annotations

from torch import Tensor, nn

from penstock.config import ModelConfig
from penstock.kernels.states import States
from penstock.model.attention import Attention, Rows
from penstock.model.cache import KVCache
from penstock.model.linear import Precision, RMSNorm, SwiGLU
from penstock.model.moe import MoE, RouterLoad

__all__ = ["Block"]


class Block(nn.Module):
    """A layer of the model; ``moe`` chooses between routed experts and a dense feed-forward layer."""

    def __init__(self, config: ModelConfig, precision: Precision, moe: bool) -> None:
        super().__init__()
        self.precision: Precision = precision
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, precision)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp: MoE | SwiGLU = (
            MoE(config, precision) if moe else SwiGLU(config.hidden_size, config.intermediate_size, precision)
        )

    def forward(
        self, x: Tensor, delta: States | None, rows: Rows, cache: KVCache | None = None, layer: int = 0
    ) -> tuple[Tensor, States, RouterLoad | None]:
        """The residual stream ``[B, S, H]`` through the layer.

        Sums are left to the norm behind them, which makes them on its way: what comes in is ``x + delta``,
        and so is what goes out.

        Parameters
        ----------
        delta
            What the layer before adds to ``x``; None: nothing.

        Returns
        -------
        x, delta, load
            The stream, what this layer still adds to it, and where its gate sent the tokens, if it has one.
        """
        x, h = self.input_layernorm.states(x, delta, self.precision, keep=False)
        mixed = self.self_attn(h, rows, cache, layer)
        norm = self.post_attention_layernorm
        if isinstance(self.mlp, MoE):
            # The gate reads values.
            x, h = norm.states(x, mixed, self.precision, keep=True, experts=self.mlp.experts_rows(x))
            y, load = self.mlp(h, rows.valid)
            return x, y, load
        x, h = norm.states(x, mixed, self.precision, keep=False)
        return x, self.mlp(h), None
