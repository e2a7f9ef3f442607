"""Batches from a packed dataset, in an order that is a pure function of (seed, epoch, position)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock import _core
from penstock.errors import DataError, numbers_in_range

__all__ = ["Batch", "StreamingDataset"]

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch.

    Attributes
    ----------
    tokens : int64[n, seq_len + lookahead]
        Rows of token ids. The target of position ``i`` at depth ``d`` is ``tokens[:, i + 1 + d]``.
    doc_ends : list of int32[documents in the row]
        Exclusive ends of the document pieces of each row, rising; what follows the last is padding.
    positions : int32[n, seq_len]
        Position of each token in its document piece.
    step : int
        The optimizer step that this batch belongs to.
    """

    tokens: NDArray[np.int64]
    doc_ends: list[NDArray[np.int32]]
    positions: NDArray[np.int32]
    step: int


class StreamingDataset:
    """Iterates batches of a packed dataset, epoch after epoch, without end.

    The global batch of a step depends on ``seed`` and ``global_batch_size`` alone: any number of ranks
    divides the same one. A Rust thread reads ahead; memory of freed batches is used again.

    Parameters
    ----------
    path
        A folder that ``penstock.pack`` has completed.
    global_batch_size
        Rows a step over all ranks; a multiple of ``world_size``.
    seed
        Of the order of rows.
    rank, world_size
        Which part of each global batch this process gets.
    prefetch_batches
        Batches read ahead.

    Raises
    ------
    DataError
        The folder is no complete dataset, or the sizes do not fit each other.
    CorruptionError
        While reading: stored bytes are not those that were written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        global_batch_size: int = 8,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        prefetch_batches: int = 4,
    ) -> None:
        self._core = _core.Dataset.open(os.fspath(path))
        self._arguments = (global_batch_size, seed, rank, world_size, prefetch_batches)
        self._manifest = json.loads(self._core.manifest())
        with numbers_in_range():
            self._stream = _core.Stream(self._core, *self._arguments, None)
        self.path = os.fspath(path)
        self.global_batch_size = global_batch_size
        self.seed = seed

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next batch; it waits in short turns, so that an interrupt is answered."""
        while (found := self._stream.next(POLL_SECONDS)) is None:
            pass
        step, tokens, positions, ends, offsets = found
        doc_ends = [ends[offsets[i] : offsets[i + 1]] for i in range(len(tokens))]
        return Batch(tokens=tokens, doc_ends=doc_ends, positions=positions, step=step)

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch stands: a few numbers, independent of rank and world size."""
        state: dict[str, Any] = json.loads(self._stream.state())
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``, in O(1).

        Raises
        ------
        DataError
            The state is of another dataset, seed or global batch size.
        """
        try:
            text = json.dumps(dict(state))
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.path}: not a resume state of a dataset: {error}") from error
        self._stream = _core.Stream(self._core, *self._arguments, text)

    def documents_of_step(self, step: int) -> list[dict[str, Any]]:
        """The documents in the global batch of ``step``: doc_id, file, ordinal, source, id, tokens."""
        doc_ids: dict[int, None] = {}
        for k in range(step * self.global_batch_size, (step + 1) * self.global_batch_size):
            epoch, position = divmod(k, self.rows)
            row = self._core.sample_row(self.seed, epoch, position)
            doc_ids.update(dict.fromkeys(self._core.row(row)[2].tolist()))
        documents: list[dict[str, Any]] = json.loads(self._core.documents(list(doc_ids)))
        return documents

    def verify(self) -> None:
        """Read and check every stored byte.

        Raises
        ------
        CorruptionError
            Naming the first file and place that does not hold what was written.
        """
        self._core.verify()

    @property
    def rows(self) -> int:
        """Rows in the dataset, that is samples an epoch."""
        return self._core.rows

    @property
    def seq_len(self) -> int:
        """Input positions a row."""
        return self._core.seq_len

    @property
    def lookahead(self) -> int:
        """Tokens a row holds beyond ``seq_len``: 1 + the depth of multi-token prediction."""
        return self._core.lookahead

    @property
    def manifest(self) -> dict[str, Any]:
        """manifest.json."""
        return dict(self._manifest)

    @property
    def vocab_size(self) -> int:
        """Of the tokenizer that made the tokens."""
        return int(self._manifest["tokenizer"]["vocab_size"])

    @property
    def eot_id(self) -> int | None:
        """The end-of-text id, or None."""
        eot_id: int | None = self._manifest["tokenizer"]["eot_id"]
        return eot_id

    @property
    def tokenizer_sha256(self) -> str:
        """Of the tokenizer that made the tokens."""
        return str(self._manifest["tokenizer"]["sha256"])
