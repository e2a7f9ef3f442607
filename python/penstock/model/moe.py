"""Mixture of experts: the gate, the routed and shared experts, and what keeps their loads even."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from penstock.config import ModelConfig
from penstock.kernels import feed_forward, route
from penstock.kernels.states import States
from penstock.kernels.types import BLOCK, Groups
from penstock.model.linear import Precision, SwiGLU

__all__ = ["MoE", "Router", "RouterLoad"]


@dataclass(frozen=True)
class RouterLoad:
    """How one layer's gate spread the real tokens of a pass."""

    counts: Tensor
    """Int ``[E]``: tokens an expert."""
    balance: Tensor
    """FP32 ``[B]``: the balance loss of each sequence."""


class Router(nn.Module):
    """Sigmoid gate with group-limited choice; a bias steers the choice and leaves the weights alone."""

    e_score_correction_bias: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))

    def forward(self, x: Tensor) -> route.Choice:
        """Choose experts.

        Parameters
        ----------
        x
            ``[T, H]``.

        Returns
        -------
        Choice
            Experts, their weights, and the sigmoids before bias and choice.
        """
        c = self.config
        logits = route.router_logits(x, self.weight)
        return route.route(
            logits,
            self.e_score_correction_bias,
            c.n_group,
            c.topk_group,
            c.num_experts_per_tok,
            c.routed_scaling_factor,
            c.norm_topk_prob,
        )


class Experts(nn.Module):
    """The routed experts' weights, stacked: ``gate_up [E, 2I, H]``, gate first, and ``down [E, H, I]``."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.precision: Precision = precision
        count, width, hidden = config.n_routed_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up = nn.Parameter(torch.empty(count, 2 * width, hidden))
        self.down = nn.Parameter(torch.empty(count, hidden, width))

    def forward(self, x: States, weights: Tensor, groups: Groups, shared: SwiGLU | None) -> States:
        """Tokens ``[T, H]`` through the experts they chose, summed with the choices' weights ``[T, k]``; plus
        what ``shared`` makes of them all.
        """
        given = None if shared is None else (shared.gate_up_proj.weight, shared.down_proj.weight)
        return feed_forward.expert_feed_forward(
            x, weights, self.gate_up, self.down, groups, self.precision, given
        )


class MoE(nn.Module):
    """Routed experts, and the shared ones folded into a single feed-forward layer."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.config = config
        self.gate = Router(config)
        self.experts = Experts(config, precision)
        self.shared_experts = (
            SwiGLU(config.hidden_size, config.n_shared_experts * config.moe_intermediate_size, precision)
            if config.n_shared_experts
            else None
        )

    def forward(self, x: States, valid: Tensor | None = None) -> tuple[States, RouterLoad]:
        """Send every real token through its experts.

        Parameters
        ----------
        x
            ``[B, S, H]``, normed.
        valid
            Bool ``[B, S]``; the others reach no routed expert and count nowhere. None: all are real.

        Returns
        -------
        y, load
            ``[B, S, H]`` to be added to the residual stream, and where the tokens went.
        """
        c = self.config
        leading, second = x.values.shape[:2], None if x.second is None else x.second.flatten(0, 1)
        flat = States(x.values.flatten(0, 1), x.rows, second=second, spread=x.spread)
        choice = self.gate(flat.values)
        groups = route.route_tables(
            choice.idx,
            c.n_routed_experts,
            None if valid is None else valid.flatten(),
            block=self._block_rows(x.values),
        )
        y = self.experts(flat, choice.p, groups, self.shared_experts)
        y = replace(y, values=y.values.view_as(x.values))
        scores, highest = (t.view(*leading, -1) for t in (choice.scores, choice.highest))
        balance = route.balance_loss(scores, highest, valid)
        return y, RouterLoad(groups.counts, balance)

    def experts_rows(self, x: Tensor) -> tuple[int, int]:
        """Rows that experts have for tokens ``[B, S, H]``, and choices of a token."""
        c = self.config
        tokens, k = x.shape[:-1].numel(), c.num_experts_per_tok
        return route.most_rows(tokens, k, c.n_routed_experts, self._block_rows(x)), k

    def _block_rows(self, x: Tensor) -> int:
        """Rows to which groups are padded: the kernels' tile, or none where plain products run."""
        return BLOCK if x.is_cuda or self.experts.precision == "fp8" else 1
