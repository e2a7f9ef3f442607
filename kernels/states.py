"""Rows between two layers, and what passes beside them quantised already, forward and backward.

What a kernel computes it can quantise where it stands, so that no cast reads it again. Forward, the bytes go
along with the tensor; if nobody reads that tensor's values, it has no memory and only carries the gradient.
A weighted sum of experts' rows may go along unmade, for the norm behind it to make on its way.
Backward, autograd hands a gradient to whatever made a tensor, in that tensor's shape and dtype: so what takes
its gradient quantised makes two more tensors, of the shapes of bytes and scales and without memory, and their
gradients are the bytes and scales. What takes its gradient as rows of experts, to sum them on its way, makes
two for the rows and for where those of each token stand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from . import registry
from .permute.op import gather_sum
from .quantize import quantize_rows
from .quantize.op import check_row_q, check_shiftable
from .types import BLOCK, FP8, Groups, RowQ


@dataclass(frozen=True)
class Combination:
    """A sum of each token's expert outputs that nobody has made yet; without gradients of its own."""

    y: Tensor
    """[R_max, K]: rows of the experts."""
    p: Tensor
    """float32 [T, k]: weights of the choices."""
    groups: Groups
    extra: Tensor | None
    """[T, K], added."""

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """What is combined, as an op takes it."""
        return self.y, self.p, self.groups.token_pos


@dataclass(frozen=True)
class Spread:
    """Takes the gradient of ``States.second`` as experts' rows, whose sum nobody has made."""

    rows: Tensor
    """[R_max, K]."""
    places: Tensor
    """E4M3 [T, 4 * k]: its gradient is ``Groups.token_pos`` as bytes, which autograd refuses to add up."""

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        """The tensors, as an op takes them."""
        return self.rows, self.places

    @staticmethod
    def gradients(rows: Tensor, token_pos: Tensor) -> tuple[Tensor, Tensor]:
        """What to send to the parts, for int32 ``token_pos`` [T, k]."""
        return rows, token_pos.view(FP8)


@dataclass(frozen=True)
class States:
    """Hidden states as one op hands them to the next."""

    values: Tensor
    """[..., K]. Beside ``rows`` they may be undefined: what reads only the rows sends its gradient here."""
    rows: RowQ | None = None
    """[M, K], the same quantised, M rows in all."""
    gradient: RowQ | None = None
    """Takes the gradient of ``values`` quantised: the one op that reads the values may send it here and none
    there."""
    second: Tensor | None = None
    """Like ``values`` without their memory. Of two readers each may send its gradient to one of the two: what
    made them adds both where it reads them."""
    spread: Spread | None = None
    """The op that sends its gradient to ``second`` may send a part of it here, row by row."""
    combination: Combination | None = None
    """What ``values`` are, which are undefined then and only carry the gradient."""


S = TypeVar("S", Tensor, States)


def states_of(x: Tensor | States) -> States:
    """``x`` with its values, made here if they are not yet; with nothing beside them if it is a tensor."""
    if not isinstance(x, States):
        return States(x)
    return x if x.combination is None else replace(x, values=settled(x), combination=None)


def as_given(x: S, y: States) -> S:
    """``y`` in the form of ``x``: what gets tensors returns tensors."""
    return y if isinstance(x, States) else y.values


def settled(x: States) -> Tensor:
    """The values of ``x``, made here if they have not been yet."""
    if x.combination is None:
        return x.values
    values: Tensor = _Settled.apply(x.values, x.combination)  # type: ignore[no-untyped-call]
    return values


class _Settled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, due: Combination) -> Tensor:
        return gather_sum(*due.parts, due.extra).view(values.shape).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def reads_rows(precision: str) -> bool:
    """Whether products in ``precision`` read rows that were quantised for them, and nothing else of an input.

    Recipe v3 reads the values again for the gradient of the weight.
    """
    return precision == "fp8" and registry.wgrad_recipe() == "shift"


def without_memory(like: Tensor) -> Tensor:
    """A tensor of the shape and dtype of ``like`` whose values are not to be read."""
    return like.new_empty(1).expand(like.shape)


def takes_rows() -> bool:
    """Whether gradients can come quantised: a compiler does not see which of two gradients came."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def with_places(ctx: Any, wanted: bool, *results: Tensor) -> tuple[Tensor, ...]:
    """What the forward pass of a function returns: its matrices, and if wanted the bytes and scales, without
    memory, of the gradient of each.
    """
    if not wanted:
        return results
    ctx.set_materialize_grads(False)
    return *results, *(part for y in results for part in place_of(y))


def place_of(y: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes and scales, without memory, of the gradient of a matrix."""
    rows, columns = y.shape
    data, scale = (y.new_empty(1, dtype=dtype) for dtype in (FP8, torch.float32))
    return data.expand(rows, columns), scale.expand(-(-columns // BLOCK), -(-rows // 4) * 4)


def spread_of(x: Tensor, rows: int, k: int) -> tuple[Tensor, Tensor]:
    """The parts of a Spread, without memory, for tokens ``x`` [..., K] of k choices each."""
    places = x.new_empty(1, dtype=FP8).expand(x.shape[:-1].numel(), 4 * k)
    return x.new_empty(1).expand(rows, x.shape[-1]), places


def received(grad: Tensor | None, data: Tensor | None = None, scale: Tensor | None = None) -> RowQ:
    """A gradient quantised, as it came or here.

    Raises
    ------
    RuntimeError
        It came in both ways, or in neither.
    """
    if data is not None and scale is not None and grad is None:
        return RowQ(data, scale)
    if grad is None or data is not None:
        raise RuntimeError(
            "a gradient came both quantised and not: only one op may read the values of States"
        )
    return quantize_rows(grad.contiguous())


def check_states(name: str, x: States) -> None:
    """Raise TypeError or ValueError unless the rows of ``x``, if it has any, are those of its values."""
    if x.rows is None:
        return
    check_row_q(f"{name}.rows", x.rows)
    check_shiftable(f"{name}.rows", x.rows)
    rows, columns = x.values.shape[:-1].numel(), x.values.shape[-1]
    if x.rows.data.shape != (rows, columns):
        raise ValueError(f"{name}.rows: expected shape {(rows, columns)}, got {tuple(x.rows.data.shape)}")
