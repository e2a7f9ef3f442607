"""What an AdamW step needs besides tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Hyperparameters:
    """The numbers of one step, bias corrections worked out once on the host."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    correction1: float
    """1 - beta1 ** step."""
    correction2: float
    """1 - beta2 ** step."""


def hyperparameters(
    lr: float, betas: tuple[float, float], eps: float, weight_decay: float, step: int
) -> Hyperparameters:
    """Check the numbers and derive the corrections.

    Raises
    ------
    ValueError
        A number lies outside its range.
    """
    if not lr >= 0:
        raise ValueError(f"lr: must not be negative, got {lr}")
    for beta in betas:
        if not 0 <= beta < 1:
            raise ValueError(f"betas: must lie in [0, 1), got {betas}")
    if not eps > 0:
        raise ValueError(f"eps: must be positive, got {eps}")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay: must not be negative, got {weight_decay}")
    if step < 1:
        raise ValueError(f"step: the first step is 1, got {step}")
    return Hyperparameters(
        lr, betas[0], betas[1], eps, weight_decay, 1 - betas[0] ** step, 1 - betas[1] ** step
    )
