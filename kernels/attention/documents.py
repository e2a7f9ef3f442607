"""Where the documents of a row begin and end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..arguments import check_tensor


@dataclass(frozen=True)
class Documents:
    """The documents of packed rows, each a run of positions; made once for all layers of a pass."""

    ids: Tensor
    """Integers [B, S]: equal within a document, and different from the neighbours'."""
    starts: Tensor
    """int32 [B, S]: the first position of the document that each position stands in."""
    ends: Tensor
    """int32 [B, S]: the position after its last."""


def find_documents(ids: Tensor) -> Documents:
    """Bounds of the runs of equal numbers in each row.

    Parameters
    ----------
    ids : integer Tensor [B, S]
        Any numbers; padding is a run like others.

    Raises
    ------
    TypeError, ValueError
        ``ids`` is no integer matrix.
    """
    check_tensor("ids", ids, ndim=2, dtype=(torch.int32, torch.int64))
    size = ids.shape[1]
    position = torch.arange(size, dtype=torch.int32, device=ids.device).expand(ids.shape)
    border = ids[:, 1:] != ids[:, :-1]
    first = torch.nn.functional.pad(border, (1, 0), value=True)
    last = torch.nn.functional.pad(border, (0, 1), value=True)
    starts = position.masked_fill(~first, 0).cummax(1).values
    ends = (position + 1).masked_fill(~last, size).flip(1).cummin(1).values.flip(1)
    return Documents(ids, starts.contiguous(), ends.contiguous())
