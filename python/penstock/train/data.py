"""Opening the packed dataset, and whether it fits the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from penstock.config import Config
from penstock.errors import ConfigError, DataError
from penstock.tokenizer import Tokenizer

if TYPE_CHECKING:
    from penstock.data import StreamingDataset
    from penstock.data.loader import TorchBatch

__all__ = ["check_fit", "keep_tokenizer", "open_dataset", "open_loader"]


def open_dataset(config: Config) -> StreamingDataset:
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
    from penstock.data import StreamingDataset

    return StreamingDataset(
        config.data.path, global_batch_size=config.data.global_batch_size, seed=config.data.seed
    )


def open_loader(dataset: StreamingDataset, device: torch.device) -> Iterator[TorchBatch]:
    """Batches as tensors on ``device``, from where the dataset stands, without end."""
    from penstock.data.loader import TorchLoader

    return iter(TorchLoader(dataset, device))


def keep_tokenizer(dataset: StreamingDataset, config: Config, target: Path) -> None:
    """Copy the recipe's ``tokenizer.path``, if any, so that the run can be evaluated and sampled by itself.

    Raises
    ------
    DataError
        It is not the one that made the rows.
    TokenizerError
        It cannot be read.
    """
    if not config.tokenizer.path:
        return
    tokenizer = Tokenizer.from_file(config.tokenizer.path)
    if tokenizer.sha256 != dataset.tokenizer_sha256:
        raise DataError(
            f"{config.data.path}: packed with the tokenizer with sha256 {dataset.tokenizer_sha256[:16]}, but "
            f"tokenizer.path={config.tokenizer.path} has {tokenizer.sha256[:16]}: "
            "name the one it was packed with"
        )
    tokenizer.save(target)


def check_fit(dataset: StreamingDataset, config: Config) -> None:
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
