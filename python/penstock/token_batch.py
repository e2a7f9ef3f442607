"""The ids of several texts in two arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from penstock import _core

if TYPE_CHECKING:
    import pyarrow

__all__ = ["TokenBatch"]


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of several texts, end to end.

    Attributes
    ----------
    ids : uint32[n]
    offsets : int64[texts + 1]
        Text ``i`` is ``ids[offsets[i]:offsets[i + 1]]``.
    """

    ids: NDArray[np.uint32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.uint32]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of a batch of {len(self)}")
        index %= len(self)
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[NDArray[np.uint32]]:
        return (self[i] for i in range(len(self)))

    def tolist(self) -> list[list[int]]:
        """A list of ints a text."""
        return _core.to_lists(np.ascontiguousarray(self.ids), np.ascontiguousarray(self.offsets))

    def to_arrow(self) -> pyarrow.LargeListArray:
        """A ``large_list<uint32>`` that shares these buffers. Needs pyarrow."""
        import pyarrow

        return pyarrow.LargeListArray.from_arrays(pyarrow.array(self.offsets), pyarrow.array(self.ids))
