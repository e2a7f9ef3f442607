"""The two shapes whose steps are predicted and measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; head sizes are DeepSeek's (128 and 64 rotated, values 128, latent 512)."""

    moe_layers: int
    dense_layers: int
    hidden: int
    heads: int
    experts: int
    chosen: int
    groups: int
    kept_groups: int
    width: int
    """Of one expert."""
    shared: int
    dense_width: int
    vocabulary: int
    goal_ms: float
    """Kernels of a micro-batch of 16,384 tokens, without the optimizer."""
    predicted_ms: dict[str, float]
    """By part, and "micro-batch" for their sum with launches and gradients."""
    latent: int = 512
    nope: int = 128
    rope: int = 64
    value: int = 128


SHAPES = {
    "small": Shape(
        15, 1, 1280, 10, 64, 6, 8, 4, 640, 2, 6912, 65536, 135.0,
        {
            "FP8 products": 43.0, "element-wise, routing": 28.7, "attention core": 27.5, "head": 13.3,
            "optimizer": 26.9, "micro-batch": 117.0,
        },
    ),
    "lite-10L": Shape(
        9, 1, 2048, 16, 64, 6, 1, 1, 1408, 2, 10944, 102400, 185.0,
        {
            "FP8 products": 78.4, "element-wise, routing": 21.8, "attention core": 25.9, "head": 31.5,
            "optimizer": 39.6, "micro-batch": 163.0,
        },
    ),
}  # fmt: skip
