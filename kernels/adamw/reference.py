"""AdamW in plain torch: the definition of correct."""

from __future__ import annotations

from torch import Tensor

from ..quantize import quantize_weight
from ..types import WeightQ
from .hyperparameters import Hyperparameters


def update(
    param: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    copy: WeightQ | Tensor | None,
    numbers: Tensor,
    hyper: Hyperparameters,
) -> None:
    """One parameter and its copy in place: float32 arithmetic, moments rounded to their dtype after use.

    ``numbers`` are those of ``StepNumbers.on``.
    """
    lr, clip, correction1, correction2 = numbers.unbind()
    g = grad.to(param.dtype) * clip
    first = m.to(param.dtype).lerp(g, 1 - hyper.beta1)
    second = v.to(param.dtype) * hyper.beta2 + g * g * (1 - hyper.beta2)
    m.copy_(first)
    v.copy_(second)
    denominator = (second / correction2).sqrt_().add_(hyper.eps)
    param.mul_(1 - lr * hyper.weight_decay)
    param.sub_(first.div_(denominator).mul_(lr / correction1))
    if isinstance(copy, WeightQ):
        quantize_weight(param, copy)
    elif copy is not None:
        copy.copy_(param)
