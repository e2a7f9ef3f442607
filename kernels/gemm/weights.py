"""What is derived from a weight once and used until the optimizer changes it; and where its gradient goes.

Under ``torch.compile`` a weight has no state: its copy is part of the graph, made once a pass, and its
gradient is returned. A compiler may reuse the memory of what an op returns, so it must not be a kept copy;
and what it traces once must not depend on what ``accumulate_in_place`` said then. Copies are kept and
gradients written in place in eager mode and CUDA graphs, as the trainer runs: do not compile a model whose
weights are accumulated in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..quantize import quantize_weight
from ..types import RowQ, TokQ, WeightQ
from . import pending
from .op import wgrad

Form = Literal["fp8"] | torch.dtype

# Keyed on the tensor itself, held weakly: a copy dies with its weight, and is never pickled or deep-copied
# with it.
_derived: Any = WeakTensorKeyDictionary()
_in_place: Any = WeakTensorKeyDictionary()
"""What is known of ``.grad`` of a weight in place: None, no gradient was delivered here yet; ``COUNTS``; or,
if it was discarded, the version that it had."""
COUNTS = -1


def quantized_weight(w: Tensor) -> WeightQ:
    """The FP8 form of ``w`` in both layouts, made once for each version of ``w``."""
    if torch.compiler.is_compiling():
        return quantize_weight(w.detach())
    copy: WeightQ = _current(w, "fp8")
    return copy


def cast_weight(w: Tensor, dtype: torch.dtype) -> Tensor:
    """``w`` in ``dtype``, made once for each version of ``w``; ``w`` itself if it has that dtype."""
    if w.dtype == dtype:
        return w.detach()
    if torch.compiler.is_compiling():
        return w.detach().to(dtype)
    copy: Tensor = _current(w, dtype)
    return copy


def refresh_copies(weights: Iterable[Tensor]) -> None:
    """Bring what is derived from ``weights`` up to date where it lies: a CUDA graph reads it there."""
    for w in weights:
        for form in _derived.get(w, ()):
            _current(w, form)


def copy_to_update(w: Tensor) -> WeightQ | Tensor | None:
    """The copy that an update of ``w`` can write in the same pass, if there is one; then ``mark_updated``."""
    for known, copy in _derived.get(w, {}).values():
        if known[1:] == _key(w)[1:]:
            return copy  # type: ignore[no-any-return]
    return None


def mark_updated(w: Tensor, copy: WeightQ | Tensor) -> None:
    """``copy`` now holds what ``w`` holds."""
    copies = _derived[w]
    for form, (_, held) in copies.items():
        if held is copy:
            copies[form] = (_key(w), copy)


def _key(w: Tensor) -> tuple[object, ...]:
    # A new storage (`w.data = ...`) does not move the version, so the address is part of the key.
    return (w._version, w.data_ptr(), w.shape, w.device)


def _current(w: Tensor, form: Form) -> Any:
    key = _key(w)
    copies = _derived.setdefault(w, {})
    known, copy = copies.get(form, ((), None))
    if known != key:
        # Memory is reused while size and place remain.
        copies[form] = (key, _derive(w.detach(), form, copy if known[2:] == key[2:] else None))
    return copies[form][1]


def _derive(w: Tensor, form: Form, out: Any) -> Any:
    if form == "fp8":
        return quantize_weight(w, out)
    return w.to(form) if out is None else out.copy_(w)


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
        _in_place[w] = None


def discard_gradients(weights: Iterable[Tensor]) -> None:
    """Let the gradients of ``weights`` count as zero, in the memory they have.

    Where gradients are delivered in place nothing is written: the next one overwrites. Such a weight must get
    no gradient in another way.
    """
    for w in weights:
        if w.grad is None:
            continue
        if _in_place.get(w) is None:
            w.grad.zero_()
        else:
            _in_place[w] = w.grad._version


def discarded_gradients(weights: Iterable[Tensor]) -> list[Tensor]:
    """Those of ``weights`` whose ``.grad`` was discarded and not yet overwritten."""
    return [w for w in weights if _in_place.get(w) not in (None, COUNTS)]


def zero_discarded_gradients(weights: Iterable[Tensor]) -> None:
    """Make every ``.grad`` what it counts as, where no gradient has come since it was discarded."""
    for w in discarded_gradients(weights):
        _check_untouched(w)
        w.grad.zero_()  # type: ignore[union-attr]
        _in_place[w] = COUNTS


def gradients_came(weights: Iterable[Tensor]) -> None:
    """Say that a CUDA graph has overwritten what was discarded."""
    for w in weights:
        _in_place[w] = COUNTS


def _check_untouched(w: Tensor) -> None:
    if w.grad is not None and w.grad._version != _in_place[w]:
        raise RuntimeError(
            f"the discarded gradient of a weight {tuple(w.shape)} changed: it gets gradients in place and "
            "by autograd, which cannot be told apart"
        )


def is_written_in_place(w: Tensor) -> bool:
    """Whether gradients of ``w`` go straight into ``.grad``."""
    return not torch.compiler.is_compiling() and w in _in_place


def deliver_gradient(w: Tensor, write: Callable[[Tensor, bool], None]) -> Tensor | None:
    """Have ``write(out, accumulate)`` make the gradient of ``w``: in ``w.grad`` (None), or a fresh tensor."""
    if not is_written_in_place(w):
        fresh = torch.empty(w.shape, dtype=torch.promote_types(w.dtype, torch.float32), device=w.device)
        write(fresh, False)
        return fresh
    out, accumulate = _standing_gradient(w)
    if accumulate:
        pending.launch_those_to(out)
    write(out, accumulate)
    return None


def deliver_product(w: Tensor, g: RowQ | TokQ, x: RowQ | TokQ) -> Tensor | None:
    """Make ``g @ x.T`` the gradient of ``w``, as ``deliver_gradient`` does.

    What is made in place may wait until the end of the backward pass for others that fill the card with it.
    """

    def write(out: Tensor, accumulate: bool) -> None:
        if not is_written_in_place(w) or not pending.make_later(g, x, out, accumulate):
            wgrad(g, x, out, accumulate)

    return deliver_gradient(w, write)


def _standing_gradient(w: Tensor) -> tuple[Tensor, bool]:
    """``.grad`` of a weight in place, and whether what stands in it counts; from now on it does."""
    counts = _in_place[w] in (None, COUNTS) and w.grad is not None
    if w.grad is None:
        w.grad = torch.empty_like(w)
    elif not counts:
        _check_untouched(w)
    _in_place[w] = COUNTS
    return w.grad, counts
