"""AdamW with float32 master weights and moments in any dtype, bfloat16 by intention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

import torch
from torch import Tensor

from .. import library, registry
from ..arguments import check_float, check_same, check_same_device, check_shape, check_tensor
from ..quantize.op import check_weight_q
from ..types import WeightQ
from . import reference
from .hyperparameters import Hyperparameters, StepNumbers, hyperparameters

_MOMENTS = (torch.bfloat16, torch.float32)


def adamw_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    m: Sequence[Tensor],
    v: Sequence[Tensor],
    lr: float | Tensor,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.1,
    step: int | Tensor = 1,
    clip_coefficient: float | Tensor = 1.0,
    copies: Sequence[WeightQ | Tensor | None] | None = None,
) -> None:
    """One step of decoupled-weight-decay Adam, in place, for all of ``params``.

    Arithmetic is float32; the moments are rounded to their own dtype when they are stored. In bfloat16 a
    second moment with ``1 - beta2`` below 2**-9 would stop moving: 0.95 is safe, 0.999 is not.

    Parameters
    ----------
    params : sequence of float32 Tensor
        Updated in place; their version counters move on, which is what quantised copies are keyed on.
    grads : sequence of Tensor
        float32 (bfloat16 is accepted), each of its parameter's shape.
    m, v : sequence of bfloat16 or float32 Tensor
        First and second moments, updated in place.
    lr : float or float32 Tensor of one element
        Learning rate, as in ``torch.optim.AdamW``.
    betas, eps, weight_decay : float
        As in ``torch.optim.AdamW``.
    step : int, or int32 or int64 Tensor of one element
        Number of this step, the first is 1.
    clip_coefficient : float or float32 Tensor of one element
        Multiplies every gradient.
    copies : sequence of WeightQ, Tensor or None, optional
        What products read of each parameter, in FP8 or another dtype: written in the same pass.

    Raises
    ------
    TypeError, ValueError
        The sequences differ in length, a tensor does not fit its parameter, or a number lies outside its
        range. The values of tensors are not looked at.

    Notes
    -----
    Nothing waits for the device. ``lr``, ``step`` and ``clip_coefficient`` as tensors, on the device of the
    parameters, are read there: a CUDA graph of the step takes what they hold when it is replayed. A replay
    moves no version counters.
    """
    hyper = hyperparameters(betas, eps, weight_decay)
    numbers = StepNumbers(lr, clip_coefficient, step)
    for name, given in (("grads", grads), ("m", m), ("v", v)):
        check_same(name, "params", len(params), name, len(given))
    if copies is None:
        copies = [None] * len(params)
    check_same("copies", "params", len(params), "copies", len(copies))
    for i, (p, g, first, second) in enumerate(zip(params, grads, m, v, strict=True)):
        check_tensor(f"params[{i}]", p, dtype=torch.float32, contiguous=True)
        check_tensor(f"grads[{i}]", g, dtype=(torch.float32, torch.bfloat16))
        check_tensor(f"m[{i}]", first, dtype=_MOMENTS, contiguous=True)
        check_tensor(f"v[{i}]", second, dtype=_MOMENTS, contiguous=True)
        for name, tensor in ((f"grads[{i}]", g), (f"m[{i}]", first), (f"v[{i}]", second)):
            check_shape(name, tensor, p.shape)
            check_same_device(**{f"params[{i}]": p, name: tensor})
        check_same_device(**{f"params[{i}]": p}, **numbers.tensors)
        _check_copy(f"copies[{i}]", copies[i], p)
    held: dict[torch.device, Tensor] = {}
    with torch.no_grad():
        for p, g, first, second, copy in zip(params, grads, m, v, copies, strict=True):
            if p.device not in held:
                held[p.device] = numbers.on(p.device, hyper)
            parts = copy.parts if isinstance(copy, WeightQ) else () if copy is None else (copy,)
            _adamw(p, g, first, second, parts, held[p.device], astuple(hyper))
            torch.autograd.graph.increment_version((p, first, second))


@library.op(fake=library.writes, mutates=("param", "m", "v", "copy"))
def _adamw(
    param: Tensor,
    grad: Tensor,
    m: Tensor,
    v: Tensor,
    copy: Sequence[Tensor],
    numbers: Tensor,
    hyper: Sequence[float],
) -> None:
    """``copy``: nothing, a tensor, or the parts of a WeightQ; ``numbers``: those of StepNumbers."""
    held = WeightQ(*copy) if len(copy) == 3 else copy[0] if copy else None
    state, rest = (param, grad.contiguous(), m, v), (numbers, Hyperparameters(*hyper))
    backend = registry.backend("adamw", param.device)
    # Triton is imported only where it runs.
    if backend == "gluon" and isinstance(held, WeightQ):
        from . import adamw_gluon

        if adamw_gluon.fits(*state, held):
            adamw_gluon.update(*state, held, *rest)
            return
    if backend in ("gluon", "triton"):
        from .adamw_triton import update as fast

        fast(*state, held, *rest)
    else:
        reference.update(*state, held, *rest)


def _check_copy(name: str, copy: WeightQ | Tensor | None, param: Tensor) -> None:
    if isinstance(copy, WeightQ):
        check_weight_q(name, copy, param.ndim)
        check_shape(f"{name}.data", copy.data, param.shape)
        check_same_device(params=param, **{name: copy.data})
    elif copy is not None:
        check_float(name, copy)
        check_tensor(name, copy, contiguous=True)
        check_shape(name, copy, param.shape)
        check_same_device(params=param, **{name: copy})
