"""A run's folder: where things lie in it, one trainer at a time, and starting it anew."""

from __future__ import annotations

import fcntl
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.errors import CheckpointError

__all__ = ["RunFolder", "locked", "move_aside"]


@dataclass(frozen=True)
class RunFolder:
    """Paths of ``train.out``."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of ``step-...`` folders and ``latest``."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """One JSON line a step."""
        return self.path / "metrics.jsonl"

    @property
    def plot(self) -> Path:
        """The loss over the steps."""
        return self.path / "loss.png"

    @property
    def tokenizer(self) -> Path:
        """A copy of the tokenizer that made the data."""
        return self.path / "tokenizer"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Keep a second trainer out of the folder. The lock dies with its process.

    Raises
    ------
    CheckpointError
        The folder cannot be made, or another trainer holds it.
    """
    path = folder.path / ".lock"
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise CheckpointError(
            f"{folder.path}: the run's folder cannot be written: {error.strerror}; set train.out elsewhere"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CheckpointError(
                f"{folder.path}: another process is training in this folder; wait for it, or set train.out "
                "to another one"
            ) from error
        yield


def move_aside(folder: RunFolder) -> None:
    """Start anew without deleting: an earlier run's files go to ``before-restart-N``."""
    old = [p for p in (folder.checkpoints, folder.metrics, folder.plot, folder.tensorboard) if p.exists()]
    if not old:
        return
    numbered = (folder.path / f"before-restart-{n}" for n in itertools.count(1))
    target = next(p for p in numbered if not p.exists())
    target.mkdir()
    for path in old:
        path.rename(target / path.name)
