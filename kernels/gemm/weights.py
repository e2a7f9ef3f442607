"""What is derived from a weight once and used until the optimizer changes it; and where its gradient goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..quantize import quantize_weight
from ..types import WeightQ

# Keyed on the tensor itself, held weakly: a copy dies with its weight, and is never pickled or deep-copied
# with it.
_derived: Any = WeakTensorKeyDictionary()
_in_place: Any = WeakTensorKeyDictionary()


def quantized_weight(w: Tensor) -> WeightQ:
    """The FP8 form of ``w`` in both layouts, made once for each version of ``w``."""
    copy: WeightQ = _cached(w, "fp8", quantize_weight)
    return copy


def cast_weight(w: Tensor, dtype: torch.dtype) -> Tensor:
    """``w`` in ``dtype``, made once for each version of ``w``; ``w`` itself if it has that dtype."""
    if w.dtype == dtype:
        return w.detach()
    copy: Tensor = _cached(w, str(dtype), lambda t: t.to(dtype))
    return copy


def _cached(w: Tensor, form: str, derive: Callable[[Tensor], Any]) -> Any:
    # A new storage (`w.data = ...`) does not move the version, so the address is part of the key.
    key = (w._version, w.data_ptr(), w.shape)
    copies = _derived.setdefault(w, {})
    if copies.get(form, (None,))[0] != key:
        copies[form] = (key, derive(w.detach()))
    return copies[form][1]


def accumulate_in_place(weights: Iterable[Tensor]) -> None:
    """Let backward passes add the gradients of ``weights`` straight into ``.grad``, in float32.

    Saves writing a gradient only to read and add it. What it changes: hooks on these weights do not run, and
    ``torch.autograd.grad`` does not see their gradients.

    Raises
    ------
    ValueError
        A tensor is no float32 leaf that requires a gradient.
    """
    for i, w in enumerate(weights):
        if not (w.is_leaf and w.requires_grad and w.dtype == torch.float32):
            raise ValueError(f"weights[{i}]: expected a float32 leaf that requires a gradient, got {w.dtype}")
        _in_place[w] = True


def deliver_gradient(w: Tensor, write: Callable[[Tensor, bool], None]) -> Tensor | None:
    """Have ``write(out, accumulate)`` make the gradient of ``w``: in ``w.grad`` (None), or a fresh tensor."""
    if w not in _in_place:
        fresh = torch.empty(w.shape, dtype=torch.promote_types(w.dtype, torch.float32), device=w.device)
        write(fresh, False)
        return fresh
    if w.grad is None:
        w.grad = torch.empty_like(w)
        write(w.grad, False)
    else:
        write(w.grad, True)
    return None
