"""A trainer's whole state, to a checkpoint and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from penstock.config import Config, Precision
from penstock.errors import CheckpointError, DataError
from penstock.model import Transformer
from penstock.train.checkpoint import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    CheckpointState,
    load_tensors,
    newest_complete,
    read_state,
    save_checkpoint,
    set_damaged_aside,
    verify_files,
)
from penstock.train.durable import clear_leftovers
from penstock.train.optim import AdamW
from penstock.train.schedule import phases

if TYPE_CHECKING:
    from penstock.data import StreamingDataset

__all__ = ["LoadedModel", "Training", "load_model", "model_tensors", "restore", "save"]

log = logging.getLogger("penstock.train")

FREE_KEYS = frozenset({"data.path"}) | frozenset(
    f"train.{key}"
    for key in ("out", "checkpoint_every", "keep_checkpoints", "log_every", "tensorboard", "non_finite")
)
"""Recipe keys that do not change what is learnt."""


@dataclass
class Training:
    """What a run changes as it goes, and what it needs to go on."""

    config: Config
    device: torch.device
    precision: Precision
    dataset: StreamingDataset
    model: Transformer
    optimizer: AdamW
    step: int = 0
    """Steps done; the next one has this number."""


def save(training: Training, root: Path) -> Path:
    """Write a checkpoint of the step that comes next."""
    config = training.config
    state = CheckpointState(
        step=training.step,
        updates=training.optimizer.updates,
        # A loader may have read ahead of the loop; the loop's own step is the truth.
        data={**training.dataset.state_dict(), "step": training.step},
        rng=_random_state(),
        schedule=phases(config.optimizer, config.train.steps),
        recipe=config,
        precision=training.precision,
        tokenizer_sha256=training.dataset.tokenizer_sha256,
    )
    keep = config.train.keep_checkpoints
    return save_checkpoint(root, state, model_tensors(training.model), training.optimizer.tensors(), keep)


def restore(training: Training, root: Path) -> Path | None:
    """Go on from the newest complete checkpoint, if there is one.

    Raises
    ------
    CheckpointError
        There are checkpoints but none is complete, or it is of another model or tokenizer.
    DataError
        The dataset is not the one that was trained on.
    """
    root.mkdir(parents=True, exist_ok=True)
    clear_leftovers(root)
    found = newest_complete(root)
    if found is None:
        return None
    folder, state = found
    _refuse_other_model(folder, state.recipe, training.config)
    _tell_changes(state.recipe, training.config)
    _go_on_with_data(folder, state, training)
    load_tensors(folder / MODEL_FILE, model_tensors(training.model))
    load_tensors(folder / OPTIMIZER_FILE, training.optimizer.tensors())
    training.optimizer.updates = state.updates
    _set_random_state(state.rng)
    training.step = state.step
    set_damaged_aside(root, state.step)
    log.info("going on from %s", folder)
    return folder


class LoadedModel(NamedTuple):
    """A model out of a checkpoint, and what it was trained with."""

    model: Transformer
    recipe: Config
    tokenizer_sha256: str
    """Of the tokenizer that made its training tokens."""


def load_model(
    path: Path | str, device: torch.device | str = "cpu", precision: Precision | None = None
) -> LoadedModel:
    """The trained model of a run's folder, or of one of its checkpoints.

    Parameters
    ----------
    path
        ``train.out``, whose newest complete checkpoint is taken, or a ``step-...`` folder.
    precision
        None: fp32 on a CPU, else what it was trained with.

    Raises
    ------
    CheckpointError
        There is no complete checkpoint.
    """
    folder = Path(path)
    if (folder / MODEL_FILE).exists() or folder.name.startswith("step-"):
        state = read_state(folder)
        verify_files(folder)
    else:
        found = newest_complete(folder / "checkpoints")
        if found is None:
            raise CheckpointError(f"{folder}: no checkpoints here; name a folder that `penstock train` wrote")
        folder, state = found
    if precision is None:
        precision = "fp32" if torch.device(device).type == "cpu" else state.precision
    with torch.device(device):
        model = Transformer(state.recipe.model, precision=precision)
    load_tensors(folder / MODEL_FILE, model_tensors(model))
    return LoadedModel(model.eval(), state.recipe, state.tokenizer_sha256)


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, each tensor once."""
    tensors: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensors.setdefault(id(tensor), (name, tensor.detach()))
    return dict(tensors.values())


def _refuse_other_model(folder: Path, stored: Config, wanted: Config) -> None:
    changed = _changes({"model": stored.to_mapping()["model"]}, {"model": wanted.to_mapping()["model"]})
    if changed:
        raise CheckpointError(
            f"{folder}: a checkpoint of another model: {'; '.join(changed)}. Set train.out to another "
            "folder, or start anew with --restart (resume=False)"
        )


def _go_on_with_data(folder: Path, state: CheckpointState, training: Training) -> None:
    """Set the dataset to the checkpoint's place in it, if it is the one that was trained on."""
    path, found = training.config.data.path, training.dataset.tokenizer_sha256
    if found != state.tokenizer_sha256:
        raise CheckpointError(
            f"{folder}: trained on tokens of the tokenizer with sha256 {state.tokenizer_sha256[:16]}, but "
            f"{path} was packed with {found[:16]}. Name the same data in data.path, or set train.out to "
            "another folder"
        )
    try:
        training.dataset.load_state_dict(state.data)
    except DataError as error:
        raise DataError(
            f"{folder}: was trained on other data than {path}, or in another order: {error}. Name the same "
            "data, seed and batch size, or set train.out to another folder"
        ) from error


def _tell_changes(stored: Config, wanted: Config) -> None:
    changed = _changes(stored.to_mapping(), wanted.to_mapping())
    if changed:
        log.warning("the recipe has changed since the checkpoint: %s", "; ".join(changed))


def _changes(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """``section.key: old -> new`` of what the trainer reads and what differs."""
    lines = []
    for section in ("model", "optimizer", "data", "train"):
        old, new = stored.get(section, {}), wanted.get(section, {})
        for key in sorted(old.keys() | new.keys()):
            name = f"{section}.{key}"
            if old.get(key) != new.get(key) and name not in FREE_KEYS:
                lines.append(f"{name}: {old.get(key)} -> {new.get(key)}")
    return lines


def _random_state() -> dict[str, str]:
    state = {"cpu": torch.get_rng_state().numpy().tobytes().hex()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return state


def _set_random_state(state: Mapping[str, str]) -> None:
    torch.set_rng_state(_bytes_tensor(state["cpu"]))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes_tensor(state["cuda"]))


def _bytes_tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
