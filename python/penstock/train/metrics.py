"""What a run says about itself: one event a step, one line of ``metrics.jsonl`` an event.

Steps are counted from 0, as the data's are: step k is the k-th batch of the dataset, and a checkpoint
of step k holds the weights before it. No torch here, so that a command line can import this for free.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from penstock.errors import CheckpointError

__all__ = ["MetricsFile", "Progress", "StepEvent", "TrainReport", "read_metrics"]


@dataclass(frozen=True, kw_only=True)
class StepEvent:
    """One optimizer step, after it happened."""

    step: int
    """Counted from 0."""
    steps: int
    """Of the whole run."""
    loss: float
    """Mean next-token loss of the main head over the global batch, in nats."""
    mtp_loss: float | None
    """The same of multi-token prediction, averaged over its depths; None without it. Divided by the targets
    of the main head, as in the loss, though the last tokens of a document have no target here."""
    balance_loss: float | None
    """Sequence-wise balance loss before its weight, summed over the MoE layers, each of which gives 1 for
    even loads; None for a model without experts."""
    grad_norm: float
    """Global norm of the gradient before clipping."""
    lr: float
    tokens: int
    """Tokens of the global batch, padding not counted."""
    tokens_per_s: float
    mfu: float | None
    """Model FLOP/s (causal) against dense BF16 of the GPU; None where that is not known."""
    data_stall_s: float
    """How long the step waited for its batch."""
    step_s: float
    expert_load: tuple[float, ...]
    """Of each MoE layer: the most loaded expert's tokens over the mean; 1 is perfect balance."""
    skipped: bool = False
    """True where the loss or the gradient was not finite, and nothing was updated."""
    documents: tuple[int, ...] = ()
    """Ids of the documents of a skipped batch, where the dataset knows them."""


Progress = Callable[[StepEvent], None]
"""Told of every ``log_every``-th step and of the last; runs between steps, so it should be quick."""


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What ``run`` did."""

    out: Path
    steps: int
    """Steps of the run, those before a resume included."""
    first_step: int
    """Where this process started: 0, or the checkpoint's step."""
    skipped_steps: int
    """Of this process."""
    loss: float | None
    """The last finite loss of this process; None where no step was left to do."""
    tokens: int
    """Trained on by this process."""
    seconds: float
    tokens_per_s: float
    parameters: int
    precision: str
    device: str
    checkpoint: Path
    metrics: Path
    plot: Path | None


class MetricsFile:
    """Appends events as JSON lines; opening cuts the file back to ``first_step``.

    A killed run leaves lines beyond its last checkpoint, and maybe half a line: a resumed run does those
    steps again, and the file must hold each once. What the disk refuses is a ``CheckpointError``.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        self._path = path
        with self._told():
            # Unbuffered: a line is in the file once it is written, and closing has nothing left to write.
            self._file = path.open("a+b", buffering=0)
            self._file.truncate(_length_of_steps(path, first_step))

    def write(self, event: StepEvent) -> None:
        """Append one line; it survives a kill of the process from here on."""
        line = json.dumps(_as_json(event), separators=(",", ":"), allow_nan=False) + "\n"
        with self._told():
            if self._file.write(line.encode()) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        """Put the lines on the disk, so that no checkpoint is ahead of its metrics."""
        with self._told():
            os.fsync(self._file.fileno())

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self._path}: cannot be written: {error.strerror}. Checkpoints are untouched; make room or "
                "set train.out elsewhere, and run again"
            ) from error

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a metrics file, in order."""
    return [line for line, _ in _lines(path)]


def _length_of_steps(path: Path, first_step: int) -> int:
    """Bytes of the leading lines whose step lies before ``first_step``."""
    length = 0
    for line, end in _lines(path):
        if line["step"] >= first_step:
            break
        length = end
    return length


def _lines(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole line and the offset of its end; stops at the first that is cut or damaged."""
    end = 0
    with path.open("rb") as file:
        for raw in file:
            end += len(raw)
            try:
                line = json.loads(raw)
            except ValueError:
                return
            if not raw.endswith(b"\n") or not isinstance(line, dict) or not isinstance(line.get("step"), int):
                return
            yield line, end


def _as_json(event: StepEvent) -> dict[str, Any]:
    """The event with null for what is not finite: JSON has no NaN."""
    record = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in dataclasses.asdict(event).items()
        if name != "steps"
    }
    if not event.documents:
        del record["documents"]
    return record
