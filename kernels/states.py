"""Rows between two layers, and what passes beside them quantised already, forward and backward.

What a kernel computes it can quantise where it stands, so that no cast reads it again. Forward, the bytes go
along with the tensor; if nobody reads that tensor's values, it has no memory and only carries the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from . import registry
from .quantize.op import check_row_q
from .types import RowQ


@dataclass(frozen=True)
class States:
    """Hidden states as one op hands them to the next."""

    values: Tensor
    """[..., K]. Beside ``rows`` they may be undefined: what reads only the rows sends its gradient here."""
    rows: RowQ | None = None
    """[M, K], the same quantised, M rows in all."""


S = TypeVar("S", Tensor, States)


def states_of(x: Tensor | States) -> States:
    """``x``, with nothing beside it if it is a tensor."""
    return x if isinstance(x, States) else States(x)


def as_given(x: S, y: States) -> S:
    """``y`` in the form of ``x``: what gets tensors returns tensors."""
    return y if isinstance(x, States) else y.values


def reads_rows(precision: str) -> bool:
    """Whether products in ``precision`` read rows that were quantised for them, and nothing else of an input.

    Recipe v3 reads the values again for the gradient of the weight.
    """
    return precision == "fp8" and registry.wgrad_recipe() == "shift"


def without_memory(like: Tensor) -> Tensor:
    """A tensor of the shape and dtype of ``like`` whose values are not to be read."""
    return like.new_empty(1).expand(like.shape)


def check_states(name: str, x: States) -> None:
    """Raise TypeError or ValueError unless the rows of ``x``, if it has any, are those of its values."""
    if x.rows is None:
        return
    check_row_q(f"{name}.rows", x.rows)
    rows, columns = x.values.shape[:-1].numel(), x.values.shape[-1]
    if x.rows.data.shape != (rows, columns):
        raise ValueError(f"{name}.rows: expected shape {(rows, columns)}, got {tuple(x.rows.data.shape)}")
