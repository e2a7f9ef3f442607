"""The torch side of streaming: batches as tensors on a device, from reused buffers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from penstock.data.stream import Batch, StreamingDataset

__all__ = ["TorchBatch", "TorchLoader"]

IN_FLIGHT = 3
"""Buffer sets: one in use, one on its way to the device, one being filled."""


@dataclass(frozen=True)
class TorchBatch:
    """A batch on a device.

    Attributes
    ----------
    tokens : int64[n, seq_len + lookahead]
    positions : int64[n, seq_len]
        Position of each token in its document piece.
    doc_ids : int64[n, seq_len + lookahead]
        The number of the document piece within the row, from 0; -1 on padding.
    step : int
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    doc_ids: torch.Tensor
    step: int


class TorchLoader:
    """Iterates `TorchBatch` from a dataset. A batch's tensors are valid until two more have been taken.

    On a GPU the buffers are pinned and the copies do not block the host.
    """

    def __init__(self, dataset: StreamingDataset, device: torch.device | str = "cpu") -> None:
        self.dataset = dataset
        self.device = torch.device(device)
        self._buffers: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._copied: list[torch.cuda.Event | None] = []
        self._turn = 0

    def __iter__(self) -> Iterator[TorchBatch]:
        return self

    def __next__(self) -> TorchBatch:
        batch = next(self.dataset)
        if not self._buffers:
            self._allocate(batch)
        turn = self._turn
        self._turn = (turn + 1) % IN_FLIGHT
        buffers, event = self._buffers[turn], self._copied[turn]
        if event is not None:
            event.synchronize()  # the copy that read this buffer two batches ago
        tokens, positions, doc_ids = (b.numpy() for b in buffers)
        np.copyto(tokens, batch.tokens)
        np.copyto(positions, batch.positions)
        _number_documents(batch, doc_ids)
        moved = [b.to(self.device, non_blocking=True) for b in buffers]
        if self.device.type == "cuda":
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
            self._copied[turn] = copied
        return TorchBatch(moved[0], moved[1], moved[2], batch.step)

    def _allocate(self, batch: Batch) -> None:
        shapes = (batch.tokens.shape, batch.positions.shape, batch.tokens.shape)
        pinned = self.device.type == "cuda"
        for _ in range(IN_FLIGHT):
            new = [torch.empty(shape, dtype=torch.int64, pin_memory=pinned) for shape in shapes]
            self._buffers.append((new[0], new[1], new[2]))
            self._copied.append(None)


def _number_documents(batch: Batch, out: np.ndarray) -> None:
    """Write the number of its document piece at each position, -1 on padding."""
    out.fill(-1)
    for row, ends in zip(out, batch.doc_ends, strict=True):
        start = 0
        for number, end in enumerate(ends.tolist()):
            row[start:end] = number
            start = end
