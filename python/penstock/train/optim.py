"""AdamW over a model's parameters, and clipping by the global gradient norm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from penstock.config import OptimizerConfig
from penstock.kernels.adamw import adamw_step
from penstock.kernels.gemm import (
    copy_to_update,
    discard_gradients,
    mark_updated,
    zero_discarded_gradients,
)

__all__ = ["AdamW", "clip_coefficient"]

MOMENT_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class AdamW:
    """FP32 master weights, BF16 moments, weight decay on matrices only.

    Norm weights and other vectors set a scale, which decay would only pull towards zero. ``updates`` counts
    the updates made, for the bias correction: a skipped step is none. An update also writes what products
    read of a weight, in FP8 or BF16, once the weight has been used.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> None:
        self._config = config
        self._parameters = dict(parameters)
        dtype = MOMENT_DTYPES[config.moments_dtype]
        self._m = {name: torch.zeros_like(p, dtype=dtype) for name, p in self._parameters.items()}
        self._v = {name: torch.zeros_like(p, dtype=dtype) for name, p in self._parameters.items()}
        self.updates = 0

    def zero_grad(self, in_place: bool = False) -> None:
        """Drop the gradients, or let them count as zeros where a CUDA graph writes them in place."""
        if in_place:
            discard_gradients(self._parameters.values())
            return
        for p in self._parameters.values():
            p.grad = None

    def step(self, lr: float, clip: float) -> None:
        """Update every parameter that has a gradient; gradients count times ``clip``."""
        self.updates += 1
        zero_discarded_gradients(self._parameters.values())
        for decays in (True, False):
            names = [n for n, p in self._parameters.items() if p.grad is not None and (p.ndim >= 2) == decays]
            if not names:
                continue
            parameters = [self._parameters[n] for n in names]
            copies = [copy_to_update(p) for p in parameters]
            adamw_step(
                parameters,
                [g for n in names if (g := self._parameters[n].grad) is not None],
                [self._m[n] for n in names],
                [self._v[n] for n in names],
                lr=lr,
                betas=(self._config.beta1, self._config.beta2),
                eps=self._config.eps,
                weight_decay=self._config.weight_decay if decays else 0.0,
                step=self.updates,
                clip_coefficient=clip,
                copies=copies,
            )
            for p, copy in zip(parameters, copies, strict=True):
                if copy is not None:
                    mark_updated(p, copy)

    def gradients(self) -> list[Tensor]:
        """The gradients there are, in the order of the parameters."""
        zero_discarded_gradients(self._parameters.values())
        return [p.grad for p in self._parameters.values() if p.grad is not None]

    def tensors(self) -> Mapping[str, Tensor]:
        """The moments by name, as a checkpoint stores them."""
        first = {f"m.{name}": m for name, m in self._m.items()}
        return first | {f"v.{name}": v for name, v in self._v.items()}


def clip_coefficient(norm: float, clip_norm: float) -> float:
    """What gradients of this norm are multiplied by; ``clip_norm`` 0 is no clipping."""
    return clip_norm / norm if clip_norm > 0 and norm > clip_norm else 1.0
