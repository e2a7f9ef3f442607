"""A folder of safetensors files: one, or shards with an index."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from penstock.errors import CheckpointError

__all__ = ["SHARD_BYTES", "TensorFolder", "refuse_existing_model", "write_tensors", "write_text"]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 1000**3


class TensorFolder:
    """The tensors of a folder by name, read when asked for. A context manager: it holds files open.

    Raises
    ------
    CheckpointError
        There is no safetensors file, the index is damaged or names a file that is missing or lacks a
        tensor, or a file is cut.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held = ExitStack()
        self._files: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        """Tensor name to file name."""
        if (folder / INDEX).exists():
            self.names = _read_index(folder / INDEX)
            for file in sorted(set(self.names.values())):
                self._check_against_index(file)
        else:
            self.names = dict.fromkeys(self._open(SINGLE).keys(), SINGLE)

    def __enter__(self) -> TensorFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def path(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self.folder / self.names[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading the tensor."""
        return tuple(self._open(self.names[name]).get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """The tensor as stored."""
        try:
            value: Tensor = self._open(self.names[name]).get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CheckpointError(f"{self.path(name)}: {name} cannot be read: {error}") from error
        if not value.is_floating_point():
            raise CheckpointError(f"{self.path(name)}: {name} is {value.dtype}; expected floating point")
        return value

    def _open(self, file: str) -> Any:
        if file not in self._files:
            path = self.folder / file
            try:
                opened: Any = safe_open(path, framework="pt", device="cpu")
                self._files[file] = self._held.enter_context(opened)
            except FileNotFoundError as error:
                raise CheckpointError(f"{path}: missing; the checkpoint is incomplete") from error
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{path}: cut or damaged ({error}); fetch or export the file again"
                ) from error
        return self._files[file]

    def _check_against_index(self, file: str) -> None:
        held = set(self._open(file).keys())
        listed = {name for name, where in self.names.items() if where == file}
        if held != listed:
            raise CheckpointError(
                f"{self.folder / file}: holds other tensors than {INDEX} lists, such as "
                f"{min(held ^ listed)}; the files are not of one checkpoint"
            )


def _read_index(path: Path) -> dict[str, str]:
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: expected JSON with a weight_map: {error!r}") from error
    if not isinstance(mapping, dict) or not all(isinstance(v, str) for v in mapping.values()):
        raise CheckpointError(f"{path}: weight_map must map tensor names to file names")
    for file in set(mapping.values()):
        # An index from elsewhere must not make us open files outside its folder.
        if Path(file).name != file:
            raise CheckpointError(f"{path}: {file!r} is no plain file name")
    return mapping


def refuse_existing_model(folder: Path) -> None:
    """Raise unless ``folder`` is free of models; make it if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = sorted(p.name for kind in ("config.json", "*.safetensors") for p in folder.glob(kind))
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written: {error.strerror}") from error
    if present:
        raise CheckpointError(f"{folder}: already holds {present[0]}; choose another folder or remove it")


def write_tensors(
    folder: Path,
    sizes: Iterable[tuple[str, int]],
    make: Callable[[str], dict[str, Tensor]],
    max_shard_bytes: int,
) -> None:
    """Write tensors to one file, or to shards and an index; one shard is in memory at a time.

    Parameters
    ----------
    sizes
        Every name, and about how many bytes it will take.
    make
        From a name to what to store for it.
    max_shard_bytes
        Of a file, unless a single name takes more.
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes:
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    weight_map: dict[str, str] = {}
    total = 0
    for number, names in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {key: value for name in names for key, value in make(name).items()}
        _write(folder / file, partial(save_file, tensors, metadata={"format": "pt"}))
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(t.numel() * t.element_size() for t in tensors.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    _write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.part")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: cannot be written: {error}") from error
