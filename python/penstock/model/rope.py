"""Rotary positions, and YaRN's stretching of them to longer contexts than were trained.

The tables are computed on the device in every pass: a few hundred numbers a token, and no buffer that a
change of device, dtype or context length could leave stale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from penstock.config import ModelConfig, RopeScaling

__all__ = ["inverse_frequencies", "rope_tables", "softmax_scale"]


def rope_tables(config: ModelConfig, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles by which the pairs of a head turn.

    Parameters
    ----------
    positions
        ``[B, S]``, integers.

    Returns
    -------
    cos, sin
        FP32 ``[B, S, qk_rope_head_dim]``; the second half repeats the first. YaRN's attention factor is
        in them (it is 1 when ``mscale`` equals ``mscale_all_dim``).
    """
    angles = positions[..., None].float() * inverse_frequencies(config, positions.device)
    angles = torch.cat([angles, angles], dim=-1)
    factor = _attention_factor(config.rope_scaling)
    return angles.cos() * factor, angles.sin() * factor


def softmax_scale(config: ModelConfig) -> float:
    """What query-key products are multiplied by: ``qk_head_dim ** -0.5``, and YaRN's temperature.

    The temperature applies at every length once YaRN is configured, as in transformers, and not only
    beyond the original context as in DeepSeek's inference code.
    """
    scale: float = config.qk_head_dim**-0.5
    scaling = config.rope_scaling
    if scaling is None or not scaling.mscale_all_dim:
        return scale
    return scale * _mscale(scaling.factor, scaling.mscale_all_dim) ** 2


def inverse_frequencies(config: ModelConfig, device: torch.device | None = None) -> Tensor:
    """Radians a position for each pair: FP32 ``[qk_rope_head_dim / 2]``."""
    size = config.qk_rope_head_dim
    exponents = torch.arange(0, size, 2, dtype=torch.float32, device=device) / size
    frequencies = 1.0 / config.rope_theta**exponents
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    low, high = _ramp_bounds(scaling, config.rope_theta, size)
    ramp = ((torch.arange(size // 2, dtype=torch.float32, device=device) - low) / (high - low)).clamp(0, 1)
    # Pairs that turn often within the trained context stay; slow ones are stretched; a ramp in between.
    return frequencies / scaling.factor * ramp + frequencies * (1 - ramp)


def _ramp_bounds(scaling: RopeScaling, theta: float, size: int) -> tuple[float, float]:
    def pair_that_turns(rotations: float) -> float:
        context = scaling.original_max_position_embeddings
        return size * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_that_turns(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(scaling.beta_slow)), size - 1)
    return low, high if high != low else high + 0.001


def _attention_factor(scaling: RopeScaling | None) -> float:
    if scaling is None:
        return 1.0
    if scaling.mscale and scaling.mscale_all_dim:
        return _mscale(scaling.factor, scaling.mscale) / _mscale(scaling.factor, scaling.mscale_all_dim)
    return _mscale(scaling.factor, 1.0)


def _mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0
