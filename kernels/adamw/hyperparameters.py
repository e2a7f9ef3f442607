"""What an AdamW step needs besides tensors as large as parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import check_count, check_number, check_tensor


@dataclass(frozen=True)
class Hyperparameters:
    """What stays the same from step to step."""

    beta1: float
    beta2: float
    eps: float
    weight_decay: float


@dataclass(frozen=True)
class StepNumbers:
    """What changes from step to step, each a number of the host's or a tensor of one element."""

    lr: float | Tensor
    clip: float | Tensor
    step: int | Tensor

    def __post_init__(self) -> None:
        """Check types and ranges; the values of tensors are on the device, where nobody looks."""
        for name, number, dtypes in (
            ("lr", self.lr, (torch.float32,)),
            ("clip_coefficient", self.clip, (torch.float32,)),
            ("step", self.step, (torch.int32, torch.int64)),
        ):
            if isinstance(number, Tensor):
                check_tensor(name, number, dtype=dtypes)
                if number.numel() != 1:
                    raise ValueError(f"{name}: expected one element, got shape {tuple(number.shape)}")
            elif name == "step":
                check_count(name, number)
            else:
                check_number(name, number)
        if not isinstance(self.lr, Tensor) and not self.lr >= 0:
            raise ValueError(f"lr: must not be negative, got {self.lr}")

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those that are tensors, by the names of their arguments."""
        named = {"lr": self.lr, "clip_coefficient": self.clip, "step": self.step}
        return {name: number for name, number in named.items() if isinstance(number, Tensor)}

    def on(self, device: torch.device, hyper: Hyperparameters) -> Tensor:
        """float32 [4] on ``device``: lr, clip coefficient and the corrections ``1 - beta ** step``.

        Filled there: a copy of numbers of the host's would wait, and could not be recorded.
        """
        numbers = (self.lr, self.clip, *(_correction(b, self.step) for b in (hyper.beta1, hyper.beta2)))
        held = torch.empty(len(numbers), dtype=torch.float32, device=device)
        for place, number in zip(held.unbind(), numbers, strict=True):
            if isinstance(number, Tensor):
                place.copy_(number.reshape(()))
            else:
                place.fill_(number)
        return held


def hyperparameters(betas: tuple[float, float], eps: float, weight_decay: float) -> Hyperparameters:
    """Check the numbers.

    Raises
    ------
    TypeError, ValueError
        A number is none, or lies outside its range.
    """
    for name, number in (("eps", eps), ("weight_decay", weight_decay)):
        check_number(name, number)
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
    return Hyperparameters(betas[0], betas[1], eps, weight_decay)


def _correction(beta: float, step: int | Tensor) -> float | Tensor:
    # In float64 on either side: in float32 the difference would lose digits in the first steps.
    return 1 - (torch.pow(beta, step.double()) if isinstance(step, Tensor) else beta**step)
