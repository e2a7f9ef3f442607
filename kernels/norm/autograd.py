"""The norms as PyTorch sees them on a GPU: differentiable functions over two ops, each one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import library, registry
from ..permute.op import gather_sum
from ..states import Spread, States, spread_of, takes_rows, without_memory
from ..types import RowQ, empty_rows
from . import norm_triton


def rms_norm(x: Tensor, w: Tensor, eps: float) -> Tensor:
    """See ``op.rms_norm``."""
    return add_rms_norm(x, None, w, eps)[1]


def add_rms_norm(x: Tensor, delta: Tensor | None, w: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See ``op.add_rms_norm``."""
    total, y = _AddRmsNorm.apply(x, delta, None, None, w, eps, True, False, None, None)  # type: ignore[no-untyped-call]
    return total, y


def add_rms_norm_quantize(
    x: Tensor, delta: States | None, w: Tensor, eps: float, keep: bool, experts: tuple[int, int] | None
) -> tuple[Tensor, States]:
    """See ``op.add_rms_norm_quantize``."""
    added, due = (None, None) if delta is None else (delta.values, delta.combination)
    place = (None, None) if delta is None or delta.gradient is None else delta.gradient.parts
    # Products have no float16: their rows would be rounded to it before they are summed.
    sizes = experts if takes_rows() and x.dtype != torch.float16 else None
    total, y, second, data, scale, *spread = _AddRmsNorm.apply(  # type: ignore[no-untyped-call]
        x, added, *place, w, eps, keep, True, due, sizes
    )
    return total, States(y, RowQ(data, scale), None, second, Spread(*spread) if spread else None)


class _AddRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        x, delta, place, _, w, eps, keep, quantize, due, experts = arguments
        w = w.contiguous()
        added, parts = (delta, ()) if due is None else (due.extra, due.parts)
        y, r, added, *rows = _add_rms_norm(x, added, parts, w, eps, keep, quantize)
        total = x if delta is None else added
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(total, w, r)
        ctx.narrow, ctx.quantize = quantize, place is not None
        if not keep:
            y = without_memory(x)
        if not quantize:
            return total, y
        ctx.mark_non_differentiable(*rows)
        return total, y, without_memory(x), *rows, *(() if experts is None else spread_of(x, *experts))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        total, w, r = ctx.saved_tensors
        dsum, dy, more, rows, places = (grads[i] if i < len(grads) else None for i in (0, 1, 2, 5, 6))
        if dy is None:
            dy, more = more, None
        if (rows is None) != (places is None):
            raise RuntimeError("experts' rows came without their places, or places without rows")
        due = [] if rows is None or places is None else [rows, places.view(torch.int32)]
        unused = (None,) * 5
        if dy is None and not due:
            return dsum, dsum if ctx.needs_input_grad[1] else None, None, None, None, *unused
        given = (dsum, dy, more, due, total, w, r)
        # The tile hangs on the forward pass alone: a compiler, which sees no places, gets the same sums, but
        # where experts hand back rows: there another kernel adds up dw in another order.
        dx, dw, data, scale = _add_rms_norm_backward(*given, ctx.narrow, ctx.quantize)
        if ctx.quantize:
            return dx, None, data, scale, dw, *unused
        return dx, dx if ctx.needs_input_grad[1] else None, None, None, dw, *unused


Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _empty(
    x: Tensor, delta: Tensor | None, due: Sequence[Tensor], w: Tensor, eps: float, keep: bool, quantize: bool
) -> Five:
    rows = x.shape[:-1].numel() if x.shape[-1] else 0
    is_sum = delta is not None or len(due) > 0
    y, total = x.new_empty(x.shape if keep else 0), x.new_empty(x.shape if is_sum else 0)
    quantized = empty_rows(rows, x.shape[-1], x.device) if quantize else empty_rows(0, 0, x.device)
    return y, x.new_empty(rows, dtype=torch.float32), total, *quantized


@library.op(fake=_empty)
def _add_rms_norm(
    x: Tensor, delta: Tensor | None, due: Sequence[Tensor], w: Tensor, eps: float, keep: bool, quantize: bool
) -> Five:
    """The norm, the factor of each row, the sum, bytes and scales; nothing for a sum of one, and for what is
    not asked for. ``due``: nothing, or the parts of a Combination.
    """
    rows, out = _rows(x), _empty(x, delta, due, w, eps, keep, quantize)
    if rows.numel():
        delta = None if delta is None else _matrix(delta)
        due = [t.contiguous() for t in due]
        is_sum = delta is not None or len(due) > 0
        # Where a sum is only normed, memory limits both, and programs of the plain kernel end sooner.
        if (quantize or not is_sum) and _in_words(rows, delta, *due[:1]):
            from .forward_gluon import forward

            forward(rows, delta, due, w, eps, out)
        else:
            norm_triton.forward(rows, delta, due, w, eps, out)
    return out


def _in_words(*operands: Tensor | None) -> bool:
    """Whether the kernels for words of two bfloat16 can read all that there are."""
    given = [x for x in operands if x is not None]
    if registry.backend("norm", given[0].device, given[0].dtype) != "gluon":
        return False
    from .rows_gluon import fits  # imported only where it runs

    return fits(*given)


Four = tuple[Tensor, Tensor, Tensor, Tensor]


def _empty_gradients(
    dsum: Tensor | None, dy: Tensor | None, more: Tensor | None, due: Sequence[Tensor],
    total: Tensor, w: Tensor, r: Tensor, narrow: bool, quantize: bool,
) -> Four:  # fmt: skip
    quantized = empty_rows(r.shape[0] if quantize else 0, total.shape[-1] if quantize else 0, r.device)
    return total.new_empty(total.shape), torch.empty_like(w), *quantized


@library.op(fake=_empty_gradients)
def _add_rms_norm_backward(
    dsum: Tensor | None, dy: Tensor | None, more: Tensor | None, due: Sequence[Tensor],
    total: Tensor, w: Tensor, r: Tensor, narrow: bool, quantize: bool,
) -> Four:  # fmt: skip
    """The gradient of the sum and that of the weight; if asked for bytes and scales of the former.

    The norm's own comes in two parts: ``dy``, and ``more`` with what is ``due``, nothing or experts' rows and
    where those of each token stand.
    """
    dx, _, data, scale = _empty_gradients(dsum, dy, more, due, total, w, r, narrow, quantize)
    if dx.numel() == 0:
        return dx, torch.zeros_like(w), data, scale
    rows, out = _rows(total), (dx, data, scale)
    dsum, dy, more = (None if t is None else _matrix(t) for t in (dsum, dy, more))
    chosen, token_pos = (t.contiguous() for t in due) if due else (None, None)
    if chosen is not None and token_pos is not None and _in_words(rows, dsum, dy, more, chosen):
        from .backward_gluon import backward as unpermute

        return dx, unpermute(dsum, dy, more, chosen, token_pos, rows, w, r, out).to(w.dtype), data, scale
    if chosen is not None and token_pos is not None:
        more = gather_sum(chosen, None, token_pos, more).to(dx.dtype)
    first, second = (more, None) if dy is None else (dy, more)
    assert first is not None
    return dx, norm_triton.backward(dsum, first, second, rows, w, r, narrow, out).to(w.dtype), data, scale


def _matrix(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).contiguous()


def _rows(x: Tensor) -> Tensor:
    """``x`` as a matrix, copied only if its rows are not whole or not evenly spaced."""
    rows = x.reshape(-1, x.shape[-1]) if x.numel() else x.new_empty(0, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()
