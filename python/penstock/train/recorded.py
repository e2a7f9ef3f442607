"""A micro-batch as one CUDA graph: thousands of launches become one."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from penstock.kernels.gemm import discarded_gradients, gradients_came, refresh_copies
from penstock.train.step import MicroBatch

__all__ = ["RecordedMicroBatch"]

log = logging.getLogger("penstock.train")


@dataclass(frozen=True)
class Recording:
    """A micro-batch as it ran once, to be replayed."""

    graph: torch.cuda.CUDAGraph
    results: tuple[Tensor, Tensor]
    overwritten: list[Tensor]
    """Weights whose discarded gradients it overwrites."""


class RecordedMicroBatch:
    """Runs ``micro_batch`` twice as it is, then records it and replays the recording.

    The first run compiles kernels and makes every gradient. In the second, torch counts the places where
    the host waits for the device: what waits cannot be recorded, and goes on as it is. A recording reads and
    writes weights, gradients and what is derived from weights where they lay. There are two: the first
    micro-batch of a step overwrites the gradients of the last one, the others add.
    """

    def __init__(self, micro_batch: MicroBatch, weights: Iterable[Tensor]) -> None:
        self._micro_batch = micro_batch
        self._weights = list(weights)
        self._runs = 0
        self._recordable = False
        self._recordings: dict[bool, Recording] = {}
        self._inputs: tuple[Tensor, ...] = ()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        self._runs += 1
        if self._runs == 2:
            return self._watched(*inputs)
        if not self._recordable or any(a.shape != b.shape for a, b in zip(inputs, self._inputs, strict=True)):
            return self._micro_batch(*inputs)
        refresh_copies(self._weights)
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        overwrites = bool(discarded_gradients(self._weights))
        if overwrites not in self._recordings:
            self._recordings[overwrites] = self._record()
        recording = self._recordings[overwrites]
        recording.graph.replay()
        gradients_came(recording.overwritten)
        losses, counts = recording.results
        return losses.clone(), counts.clone()

    def _watched(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        with _waits() as waits:
            results = self._micro_batch(*inputs)
        if waits:
            log.info(
                "micro-batches run launch by launch, since the host waits for the device in them: %s",
                waits[0],
            )
        self._recordable = not waits
        self._inputs = tuple(t.clone() for t in inputs)
        return results

    def _record(self) -> Recording:
        # Recordings never run at the same time, and what they return is copied at once: they share memory.
        others = [recording.graph.pool() for recording in self._recordings.values()]
        graph, discarded = torch.cuda.CUDAGraph(), discarded_gradients(self._weights)
        with torch.cuda.graph(graph, pool=others[0] if others else None):
            results = self._micro_batch(*self._inputs)
        left = {id(w) for w in discarded_gradients(self._weights)}
        return Recording(graph, results, [w for w in discarded if id(w) not in left])


@contextmanager
def _waits() -> Iterator[list[str]]:
    """Where the host waits for the device, by torch's count, known at the end of the block."""
    found: list[str] = []
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield found
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    for warning in caught:
        if "called a synchronizing" in str(warning.message):
            found.append(f"{warning.filename}:{warning.lineno}")
        elif "Synchronization debug mode" not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
