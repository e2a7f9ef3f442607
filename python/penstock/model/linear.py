"""Weights and what they do to rows: projections, norms and the gated feed-forward layer.

Master weights are FP32 whatever the precision; ``Precision`` says in which one the products are taken.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from penstock.kernels import feed_forward, gemm, norm
from penstock.kernels.states import S, States, reads_rows, settled

__all__ = ["Linear", "Precision", "RMSNorm", "SwiGLU", "activation_dtype"]

Precision = Literal["fp32", "bf16", "fp8"]


def activation_dtype(precision: Precision) -> torch.dtype:
    """The dtype of everything between two layers."""
    return torch.float32 if precision == "fp32" else torch.bfloat16


class Linear(nn.Module):
    """``x @ weight.T``, without a bias.

    Parameters
    ----------
    in_features, out_features
        K and N: the weight is FP32 ``[N, K]``.
    precision
        Of the three products: forward, input gradient and weight gradient.
    """

    def __init__(self, in_features: int, out_features: int, precision: Precision) -> None:
        super().__init__()
        self.precision: Precision = precision
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, x: S) -> S:
        """``[..., K]`` to ``[..., N]``, in the dtype of ``x``."""
        return gemm.linear(x, self.weight, self.precision)


class RMSNorm(nn.Module):
    """Rows scaled to a mean square of one, then by a weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor) -> Tensor:
        """``[..., size]`` to the same shape and dtype; the statistics are FP32."""
        return norm.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, delta: States | None) -> tuple[Tensor, Tensor]:
        """``x + delta`` and its norm; with None, ``x`` and its norm."""
        return norm.add_rms_norm(x, None if delta is None else settled(delta), self.weight, self.eps)

    def states(
        self,
        x: Tensor,
        delta: States | None,
        precision: Precision,
        keep: bool,
        experts: tuple[int, int] | None = None,
    ) -> tuple[Tensor, States]:
        """As ``add``; the norm as products in ``precision`` read it.

        Parameters
        ----------
        keep
            Whether anything but such products reads its values.
        experts
            R_max and k of the experts behind it, see ``add_rms_norm_quantize``.
        """
        if not reads_rows(precision):
            x, y = self.add(x, delta)
            return x, States(y)
        return norm.add_rms_norm_quantize(x, delta, self.weight, self.eps, keep, experts)


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))``; gate and up are one weight ``[2 * width, hidden]``, gate first."""

    def __init__(self, hidden: int, width: int, precision: Precision) -> None:
        super().__init__()
        self.gate_up_proj = Linear(hidden, 2 * width, precision)
        self.down_proj = Linear(width, hidden, precision)

    def forward(self, x: S) -> S:
        """``[..., hidden]`` to the same shape and dtype."""
        gate_up, down = self.gate_up_proj, self.down_proj
        return feed_forward.feed_forward(x, gate_up.weight, down.weight, gate_up.precision)
