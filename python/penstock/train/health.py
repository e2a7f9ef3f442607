"""What to do about a loss or a gradient that is not finite. It never reaches weights or moments."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from penstock.errors import PenstockError, TrainingError

if TYPE_CHECKING:
    from penstock.data import StreamingDataset

__all__ = ["MAX_SKIPS_IN_A_ROW", "NonFiniteGuard", "documents_of"]

log = logging.getLogger("penstock.train")

MAX_SKIPS_IN_A_ROW = 50
"""A run that skips this often in a row learns nothing more."""


class NonFiniteGuard:
    """Judges each step that is not finite, before its update."""

    def __init__(self, policy: Literal["stop", "skip"]) -> None:
        self._policy = policy
        self._last_skipped = -1
        self._in_a_row = 0
        self.skipped_steps = 0

    def skip(self, step: int, loss: float, grad_norm: float, documents: Sequence[int]) -> None:
        """Note that a step is skipped, and log the documents of its batch.

        Raises
        ------
        TrainingError
            The policy is ``stop``, or too many steps in a row were skipped.
        """
        what = f"step {step}: loss {loss}, gradient norm {grad_norm}: not finite"
        where = f"Documents of the batch: {', '.join(map(str, documents)) or 'not known'}."
        if self._policy == "stop":
            raise TrainingError(
                f"{what}. {where} The weights are as they were before this step. "
                "Look at those documents and at optimizer.lr, or set train.non_finite='skip'"
            )
        self._in_a_row = self._in_a_row + 1 if step == self._last_skipped + 1 else 1
        self._last_skipped = step
        self.skipped_steps += 1
        if self._in_a_row >= MAX_SKIPS_IN_A_ROW:
            raise TrainingError(
                f"{what}, as were the {self._in_a_row - 1} steps before it. {where} "
                "The weights are as they were before those; lower optimizer.lr or look at the data"
            )
        log.warning("%s; skipped. %s", what, where)


def documents_of(dataset: StreamingDataset, step: int) -> tuple[int, ...]:
    """Ids of the documents in a step's batch; empty where they cannot be read."""
    try:
        return tuple(int(document["doc_id"]) for document in dataset.documents_of_step(step))
    except PenstockError as error:
        log.warning("the documents of step %d cannot be named: %s", step, error)
        return ()
