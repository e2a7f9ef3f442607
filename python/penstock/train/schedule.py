"""The learning rate as a pure function of the step: warm-up, constant, cosine, constant.

Nothing is carried from step to step, so that a resumed run cannot drift from an uninterrupted one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from penstock.config import OptimizerConfig

__all__ = ["Phases", "learning_rate", "phases"]


@dataclass(frozen=True)
class Phases:
    """How many steps each phase lasts; after them the rate stays at ``min_lr``."""

    warmup_steps: int
    constant_steps: int
    decay_steps: int


def phases(config: OptimizerConfig, steps: int) -> Phases:
    """The phases of a run of ``steps`` steps, with what the recipe leaves open filled in.

    The constant phase takes two thirds of what follows the warm-up, as in the V3 report; the cosine takes
    what remains.
    """
    warmup, constant, decay = config.warmup_steps, config.constant_steps, config.decay_steps
    if constant is None:
        constant = max(steps - warmup, 0) * 2 // 3
    if decay is None:
        decay = max(steps - warmup - constant, 0)
    return Phases(warmup, constant, decay)


def learning_rate(step: int, config: OptimizerConfig, lengths: Phases) -> float:
    """The rate of optimizer step ``step``, counted from 0.

    The warm-up rises to ``lr`` at its last step (a first step at rate zero would be wasted); the cosine
    starts at ``lr`` and reaches ``min_lr`` at the first step after it.
    """
    if step < lengths.warmup_steps:
        return config.lr * (step + 1) / lengths.warmup_steps
    step -= lengths.warmup_steps
    if step < lengths.constant_steps:
        return config.lr
    step -= lengths.constant_steps
    if step < lengths.decay_steps:
        share = 0.5 * (1.0 + math.cos(math.pi * step / lengths.decay_steps))
        return config.min_lr + (config.lr - config.min_lr) * share
    return config.min_lr
