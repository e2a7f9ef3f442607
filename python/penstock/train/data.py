"""The packed dataset as the loop sees it, and whether it fits the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from penstock.config import Config
from penstock.errors import ConfigError, DataError

__all__ = ["TokenBatch", "TokenDataset", "check_fit", "open_dataset", "open_loader"]


class TokenDataset(Protocol):
    """What the loop uses of ``penstock.StreamingDataset``."""

    @property
    def seq_len(self) -> int:
        """Tokens a row, the lookahead not counted."""

    @property
    def lookahead(self) -> int:
        """Tokens beyond ``seq_len`` that a row holds for its targets."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""

    @property
    def tokenizer_sha256(self) -> str:
        """Of the tokenizer that made the rows."""

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands; ``step`` is the next batch's."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""

    def documents_of_step(self, step: int) -> Sequence[Mapping[str, Any]]:
        """The documents in a step's batch, each with its ``doc_id``."""


class TokenBatch(Protocol):
    """What the loop uses of ``penstock.data.loader.TorchBatch``: one step's rows, on the device."""

    @property
    def tokens(self) -> Tensor:
        """int64 [rows, seq_len + lookahead]."""

    @property
    def positions(self) -> Tensor:
        """int64 [rows, seq_len], from 0 at each document's start."""

    @property
    def doc_ids(self) -> Tensor:
        """int64 [rows, seq_len + lookahead], the document's index within its row, -1 on padding."""

    @property
    def step(self) -> int:
        """The batch's place in the stream, from 0."""


def open_dataset(config: Config) -> TokenDataset:
    """Open ``data.path``.

    Raises
    ------
    ConfigError
        No path is given.
    DataError
        It is no packed dataset, or a damaged one.
    """
    if not config.data.path:
        raise ConfigError(
            "data.path is empty: name a folder that `penstock pack` wrote, such as --set data.path=packed/"
        )
    from penstock import StreamingDataset

    return StreamingDataset(
        config.data.path, global_batch_size=config.data.global_batch_size, seed=config.data.seed
    )


def open_loader(dataset: TokenDataset, device: torch.device) -> Iterator[TokenBatch]:
    """Batches as tensors on ``device``, from where the dataset stands, without end."""
    from penstock.data.loader import TorchLoader

    return iter(TorchLoader(dataset, device))


def check_fit(dataset: TokenDataset, config: Config) -> None:
    """Refuse a dataset whose rows the model cannot train on, naming both numbers."""
    model, path = config.model, config.data.path
    if dataset.seq_len > model.max_position_embeddings:
        raise ConfigError(
            f"model.max_position_embeddings={model.max_position_embeddings} is less than the "
            f"{dataset.seq_len} tokens a row of {path}: raise it, or pack with a smaller seq_len"
        )
    needed = 1 + model.num_nextn_predict_layers
    if dataset.lookahead < needed:
        raise DataError(
            f"{path}: rows have a lookahead of {dataset.lookahead}, but "
            f"model.num_nextn_predict_layers={model.num_nextn_predict_layers} needs {needed}: "
            f"pack with mtp_depth={model.num_nextn_predict_layers}, "
            f"or set model.num_nextn_predict_layers={max(dataset.lookahead - 1, 0)}"
        )
    if dataset.vocab_size > model.vocab_size:
        raise DataError(
            f"{path}: packed with a vocabulary of {dataset.vocab_size} tokens, but "
            f"model.vocab_size={model.vocab_size}: set it to at least {dataset.vocab_size}"
        )
