"""What the things that penstock writes hold, as plain facts."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from penstock.errors import CheckpointError, CorruptionError, DataError, InputError

__all__ = ["describe", "tokenizer_facts"]

Facts = dict[str, Any]

LARGEST_HEADER_BYTES = 100 << 20


def describe(path: Path, verify: bool = False) -> Facts:
    """Facts about ``path``; its kind is told from what is in it.

    Raises
    ------
    InputError
        It is not there, or nothing that penstock knows.
    CorruptionError, CheckpointError
        It is damaged.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        return _folder_facts(path, verify)
    if path.name == "manifest.json":
        return _dataset_facts(path.parent, verify)
    if path.suffix == ".arrow":
        return _shard_facts(path)
    if path.suffix == ".safetensors":
        return _tensor_file_facts(path)
    if path.suffix in (".json", ".tiktoken", ".model"):
        return tokenizer_facts(path, None)
    raise _unknown(path)


def tokenizer_facts(path: Path, pattern: str | None) -> Facts:
    """Size, pattern, special tokens and the first and last merges of a tokenizer."""
    from penstock.tokenizer import Tokenizer

    tok = Tokenizer.from_file(path, pattern)
    merges = tok.merges()
    shown = [f"{left!r} + {right!r}"[:60] for left, right in (*merges[:3], *merges[-3:])]
    return {
        "kind": "tokenizer",
        "path": str(path),
        "tokens": tok.vocab_size,
        "pattern": tok.pattern,
        "merges": len(merges),
        "end of text": tok.eot_id if tok.eot_id is not None else "none",
        "sha256": tok.sha256,
        "special tokens": tok.special_tokens,
        "first and last merges": shown,
    }


def _folder_facts(path: Path, verify: bool) -> Facts:
    if (path / "manifest.json").exists():
        return _dataset_facts(path, verify)
    if (path / "plan.json").exists():
        done = len(list((path / "fragments").glob("*.json")))
        raise DataError(
            f"{path}: an unfinished packing with {done} files done and no manifest: run `penstock pack` again"
        )
    if (path / "state.json").exists():
        return _checkpoint_facts(path, verify)
    if (path / "tokenizer.json").exists() or (path / "tokenizer.model").exists():
        return tokenizer_facts(path, None)
    if (path / "checkpoints").is_dir():
        return _run_facts(path, verify)
    raise _unknown(path)


def _dataset_facts(path: Path, verify: bool) -> Facts:
    from penstock.data import StreamingDataset

    dataset = StreamingDataset(path, global_batch_size=1)
    if verify:
        dataset.verify()
    manifest = dataset.manifest
    counts = dict(manifest["counts"])
    nested = {"skipped": counts.pop("skipped"), "by source": counts.pop("by_source")}
    return {
        "kind": "packed dataset",
        "path": str(path),
        "format version": manifest["format_version"],
        **{name.replace("_", " "): value for name, value in counts.items()},
        "fragments": len(manifest["fragments"]),
        "verified": verify,
        "tokenizer": manifest["tokenizer"],
        "parameters": manifest["parameters"],
        **nested,
    }


def _shard_facts(path: Path) -> Facts:
    """One shard by itself; a dataset's checks need its folder."""
    import pyarrow

    try:
        with pyarrow.OSFile(str(path)) as source:
            reader = pyarrow.ipc.open_file(source)
            rows = sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
            batches, schema = reader.num_record_batches, reader.schema
    except (OSError, pyarrow.ArrowException) as error:
        raise CorruptionError(f"{path}: not a whole Arrow IPC file: {error}") from error
    own = (schema.metadata or {}).get(b"penstock")
    return {
        "kind": "shard" if own else "Arrow IPC file",
        "path": str(path),
        "bytes": path.stat().st_size,
        "rows": rows,
        "record batches": batches,
        "columns": {field.name: str(field.type) for field in schema},
        **({"penstock": json.loads(own)} if own else {}),
    }


def _checkpoint_facts(path: Path, verify: bool) -> Facts:
    from penstock.train.checkpoint import read_state, verify_files

    state = read_state(path)
    if verify:
        verify_files(path)
    model = _tensor_file_facts(path / "model.safetensors")
    return {
        "kind": "checkpoint",
        "path": str(path),
        "step": state.step,
        "updates": state.updates,
        "precision": state.precision,
        "tokenizer sha256": state.tokenizer_sha256,
        "tensors": model["tensors"],
        "parameters": model["values"],
        "verified": verify,
        "data": dict(state.data),
        "recipe": {
            name: {k: v for k, v in section.items() if not isinstance(v, dict)}
            for name, section in state.recipe.to_mapping().items()
            if name in ("model", "optimizer", "data")
        },
    }


def _run_facts(path: Path, verify: bool) -> Facts:
    from penstock.train.checkpoint import checkpoint_folders

    folders = checkpoint_folders(path / "checkpoints")
    if not folders:
        raise CheckpointError(f"{path}: a run without a checkpoint yet")
    return {
        "kind": "run",
        "path": str(path),
        "checkpoints": [f.name for f in folders],
        "newest": _checkpoint_facts(folders[0], verify),
    }


def _tensor_file_facts(path: Path) -> Facts:
    """Counts from a safetensors header; the tensors themselves are not read."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(LARGEST_HEADER_BYTES, path.stat().st_size):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        tensors = {k: v for k, v in header.items() if k != "__metadata__"}
        shapes = [tuple(map(int, t["shape"])) for t in tensors.values()]
        kinds = sorted({str(t["dtype"]) for t in tensors.values()})
        end = 8 + length + max((int(t["data_offsets"][1]) for t in tensors.values()), default=0)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path}: not a safetensors file: {error}") from error
    size = path.stat().st_size
    if size != end:
        raise CheckpointError(f"{path}: {size:,} bytes, but its header says {end:,}: a cut or damaged file")
    return {
        "kind": "tensors",
        "path": str(path),
        "bytes": size,
        "tensors": len(tensors),
        "values": sum(_product(shape) for shape in shapes),
        "dtypes": kinds,
    }


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size


def _unknown(path: Path) -> InputError:
    return InputError(
        f"{path}: neither a tokenizer (tokenizer.json, .tiktoken, .model), a packed dataset (manifest.json), "
        "a shard (.arrow), a checkpoint (state.json, .safetensors) nor a run (checkpoints/)"
    )
