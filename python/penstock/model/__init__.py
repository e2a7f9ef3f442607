"""The model: latent attention, mixture of experts and multi-token prediction over ``penstock.kernels``."""

from __future__ import annotations

from penstock.model.cache import KVCache
from penstock.model.flops import ParameterCounts, count_parameters, flops_per_token
from penstock.model.transformer import LossParts, Transformer, count_targets

__all__ = [
    "KVCache",
    "LossParts",
    "ParameterCounts",
    "Transformer",
    "count_parameters",
    "count_targets",
    "flops_per_token",
]
