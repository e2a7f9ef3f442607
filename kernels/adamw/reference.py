"""AdamW in plain torch: the definition of correct."""

from __future__ import annotations

from torch import Tensor

from .hyperparameters import Hyperparameters


def update(param: Tensor, grad: Tensor, m: Tensor, v: Tensor, clip: Tensor, hyper: Hyperparameters) -> None:
    """One parameter in place: float32 arithmetic, moments rounded to their own dtype after use."""
    g = grad.to(param.dtype) * clip.to(param.dtype)
    first = m.to(param.dtype).lerp(g, 1 - hyper.beta1)
    second = v.to(param.dtype) * hyper.beta2 + g * g * (1 - hyper.beta2)
    m.copy_(first)
    v.copy_(second)
    denominator = (second / hyper.correction2).sqrt_().add_(hyper.eps)
    param.mul_(1 - hyper.lr * hyper.weight_decay)
    param.addcdiv_(first, denominator, value=-hyper.lr / hyper.correction1)
