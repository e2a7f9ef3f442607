"""What an AdamW step needs besides tensors."""

from __future__ import annotations

from dataclasses import dataclass

from ..arguments import check_count, check_number


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
    TypeError, ValueError
        A number is none, or lies outside its range.
    """
    for name, number in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
        check_number(name, number)
    if not lr >= 0:
        raise ValueError(f"lr: must not be negative, got {lr}")
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise TypeError(f"betas: expected two numbers, got {betas}")
    for beta in betas:
        check_number("betas", beta)
        if not 0 <= beta < 1:
            raise ValueError(f"betas: must lie in [0, 1), got {betas}")
    if not eps > 0:
        raise ValueError(f"eps: must be positive, got {eps}")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay: must not be negative, got {weight_decay}")
    check_count("step", step)
    return Hyperparameters(
        lr, betas[0], betas[1], eps, weight_decay, 1 - betas[0] ** step, 1 - betas[1] ** step
    )
