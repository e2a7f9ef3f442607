"""Checkpoints: ``checkpoints/step-00000200/`` with two safetensors files and ``state.json``.

=========================  =====================================================================
``model.safetensors``      FP32 master weights and the router's bias
``optimizer.safetensors``  AdamW's moments, ``m.<name>`` and ``v.<name>``
``state.json``             step, place in the data, random state, schedule, recipe, versions, and the
                           sha256 of both files and of itself
=========================  =====================================================================

A folder is filled under another name, forced to the disk and renamed, so a kill leaves it whole or not at
all; ``latest`` then moves by rename. Every byte is covered by a hash that is checked before anything is
used, and nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from penstock.config import Config, Precision
from penstock.errors import CheckpointError, ConfigError
from penstock.report.track import versions
from penstock.train.durable import durable_folder, remove_folder, sha256_of, write_durably
from penstock.train.schedule import Phases

__all__ = [
    "MODEL_FILE",
    "OPTIMIZER_FILE",
    "CheckpointState",
    "checkpoint_folders",
    "load_tensors",
    "newest_complete",
    "read_state",
    "save_checkpoint",
    "set_damaged_aside",
    "verify_files",
]

log = logging.getLogger("penstock.train")

FORMAT_VERSION = 1
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
LATEST_FILE = "latest"
TENSOR_FILES = (MODEL_FILE, OPTIMIZER_FILE)
ANOTHER_WAY = "delete this folder; a run then goes on from the newest complete checkpoint beside it"


@dataclass(frozen=True, kw_only=True)
class CheckpointState:
    """What ``state.json`` says."""

    step: int
    """Steps done; the next one has this number."""
    updates: int
    """Updates made: steps less those skipped."""
    data: Mapping[str, Any]
    """The dataset's own state; its next batch is ``step``."""
    rng: Mapping[str, str]
    """Torch's random state by device type, in hex."""
    schedule: Phases
    recipe: Config
    precision: Precision
    tokenizer_sha256: str


def save_checkpoint(
    root: Path,
    state: CheckpointState,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    keep: int,
) -> Path:
    """Write ``root/step-<step>``, move ``latest`` to it, and delete all but the newest ``keep``.

    Raises
    ------
    CheckpointError
        The disk is full or refuses; earlier checkpoints are untouched and nothing half-written is left.
    """
    folder = root / f"step-{state.step:08d}"
    needed = sum(t.numel() * t.element_size() for t in (*model.values(), *optimizer.values()))
    try:
        with durable_folder(folder) as aside:
            _refuse_full_disk(aside, needed)
            save_file(dict(model), aside / MODEL_FILE)
            save_file(dict(optimizer), aside / OPTIMIZER_FILE)
            (aside / STATE_FILE).write_text(_state_text(state, aside), encoding="utf-8")
        write_durably(root / LATEST_FILE, folder.name + "\n")
    except (OSError, SafetensorError) as error:
        free = _free_bytes(root)
        raise CheckpointError(
            f"{folder}: the checkpoint cannot be written: {error}. It needs {needed:,} bytes, {free:,} are "
            "free. Earlier checkpoints are untouched; make room or set train.out elsewhere, and run again"
        ) from error
    older = [p for p in checkpoint_folders(root) if _step_of(p) < state.step]
    for old in older[max(keep, 1) - 1 :]:
        remove_folder(old)
    return folder


def checkpoint_folders(root: Path) -> list[Path]:
    """Folders named as checkpoints, the newest first, complete or not."""
    folders = [p for p in root.glob("step-*") if p.name[5:].isdecimal() and p.is_dir()]
    return sorted(folders, key=_step_of, reverse=True)


def newest_complete(root: Path) -> tuple[Path, CheckpointState] | None:
    """The newest checkpoint whose every byte is as written; None where there is none at all.

    A damaged one is passed over with a warning that says what is wrong with it.

    Raises
    ------
    CheckpointError
        There are checkpoints, but none is complete: starting anew is the user's decision.
    """
    folders = checkpoint_folders(root)
    for folder in folders:
        try:
            state = read_state(folder)
            verify_files(folder)
        except CheckpointError as error:
            log.warning("passing over a damaged checkpoint: %s", error)
            continue
        return folder, state
    if folders:
        raise CheckpointError(
            f"{root}: none of its {len(folders)} checkpoints is complete (the newest is {folders[0].name}); "
            "restore one from a copy, or start anew with --restart (resume=False)"
        )
    return None


def read_state(folder: Path) -> CheckpointState:
    """Read and check ``state.json``.

    Raises
    ------
    CheckpointError
        It is missing, damaged, or of a format that this version does not know.
    """
    record = _read_record(folder)
    try:
        return CheckpointState(
            step=record["step"],
            updates=record["updates"],
            data=record["data"],
            rng=record["rng"],
            schedule=Phases(**record["schedule"]),
            recipe=Config.from_mapping(record["recipe"], origin=str(folder / STATE_FILE)),
            precision=record["precision"],
            tokenizer_sha256=record["tokenizer_sha256"],
        )
    except (AttributeError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{folder / STATE_FILE}: not a state that this penstock can read: {error!r}; {ANOTHER_WAY}"
        ) from error


def verify_files(folder: Path) -> None:
    """Compare both tensor files with the hashes in ``state.json``.

    Raises
    ------
    CheckpointError
        A file is missing, cut, or differs in a byte.
    """
    files = _read_record(folder).get("files", {})
    try:
        found = _hashes(folder)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}; {ANOTHER_WAY}") from error
    for name in TENSOR_FILES:
        if found[name] != files.get(name):
            raise CheckpointError(
                f"{folder / name}: damaged: its sha256 is {found[name]}, but {STATE_FILE} says "
                f"{files.get(name)}; {ANOTHER_WAY}"
            )


def load_tensors(path: Path, targets: Mapping[str, Tensor]) -> None:
    """Copy a safetensors file into tensors of the same names, shapes and dtypes, one at a time.

    Raises
    ------
    CheckpointError
        The file is no safetensors file, or not of this model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            _refuse_other_names(path, set(file.keys()), set(targets))
            for name, target in targets.items():
                source = file.get_tensor(name)
                if source.shape != target.shape or source.dtype != target.dtype:
                    raise CheckpointError(
                        f"{path}: {name} is {source.dtype} {list(source.shape)}, but the model has "
                        f"{target.dtype} {list(target.shape)}: the recipe is of another model"
                    )
                with torch.no_grad():
                    target.copy_(source)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}; {ANOTHER_WAY}") from error


def set_damaged_aside(root: Path, step: int) -> None:
    """Rename the damaged checkpoints after ``step``, from which a run goes on, to ``damaged-...``."""
    for folder in checkpoint_folders(root):
        if _step_of(folder) > step:
            aside = folder.with_name(f"damaged-{folder.name}")
            remove_folder(aside)
            folder.rename(aside)


def _step_of(folder: Path) -> int:
    return int(folder.name[5:])


def _read_record(folder: Path) -> dict[str, Any]:
    """``state.json`` as plain data, its own hash checked."""
    path = folder / STATE_FILE
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; {ANOTHER_WAY}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: not JSON ({error}); {ANOTHER_WAY}") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path}: damaged: a JSON object was expected; {ANOTHER_WAY}")
    stated = record.pop("sha256", None)
    if stated != _hash_of(record):
        raise CheckpointError(f"{path}: damaged: its own sha256 does not match; {ANOTHER_WAY}")
    if record.get("version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: checkpoint format {record.get('version')}, this version of penstock knows "
            f"{FORMAT_VERSION}: use the penstock that wrote it"
        )
    return record


def _state_text(state: CheckpointState, folder: Path) -> str:
    record: dict[str, Any] = {
        "version": FORMAT_VERSION,
        "step": state.step,
        "updates": state.updates,
        "data": dict(state.data),
        "rng": dict(state.rng),
        "schedule": asdict(state.schedule),
        "recipe": state.recipe.to_mapping(),
        "precision": state.precision,
        "tokenizer_sha256": state.tokenizer_sha256,
        "libraries": versions(),
        "files": _hashes(folder),
    }
    return json.dumps(record | {"sha256": _hash_of(record)}, indent=1) + "\n"


def _hashes(folder: Path) -> dict[str, str]:
    """Of the tensor files by name, at once: hashing is slower than a good disk."""
    with ThreadPoolExecutor(len(TENSOR_FILES)) as pool:
        digests = pool.map(sha256_of, (folder / name for name in TENSOR_FILES))
        return dict(zip(TENSOR_FILES, digests, strict=True))


def _hash_of(record: Mapping[str, Any]) -> str:
    """Of the meaning, not of the spaces: a flipped bit that changes no value is harmless."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_other_names(path: Path, found: set[str], wanted: set[str]) -> None:
    for names, what in ((wanted - found, "lacks"), (found - wanted, "has the unknown")):
        if names:
            raise CheckpointError(
                f"{path}: {what} {len(names)} tensors, such as {min(names)}: the recipe is of another model"
            )


def _refuse_full_disk(folder: Path, needed: int) -> None:
    if _free_bytes(folder) < needed:
        raise OSError("not enough space on the disk")


def _free_bytes(path: Path) -> int:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return 0
