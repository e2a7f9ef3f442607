"""Published DeepSeek-V3-style checkpoints (safetensors and ``config.json``), read and written.

``names`` says which tensors on disk make up which weight, ``hf_config`` how the keys correspond,
``fp8_blocks`` what FP8 weights mean, ``tensor_files`` how files are opened and written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from penstock.config import ModelConfig
from penstock.errors import CheckpointError
from penstock.interop import fp8_blocks
from penstock.interop.hf_config import read_config, write_config_text
from penstock.interop.names import Weight, copies, weights
from penstock.interop.tensor_files import (
    SHARD_BYTES,
    TensorFolder,
    refuse_existing_model,
    write_tensors,
    write_text,
)
from penstock.model.linear import Precision
from penstock.model.transformer import Transformer

__all__ = ["load_hf", "save_hf"]

MAX_NAMED = 8
# Old checkpoints hold RoPE's frequencies, which the config states already.
DERIVED = "self_attn.rotary_emb.inv_freq"
BIAS = "e_score_correction_bias"


def load_hf(
    folder: str | Path,
    precision: Precision = "fp32",
    device: torch.device | str = "cpu",
    mtp_layers: int | None = None,
) -> Transformer:
    """Read a model in the layout of transformers and of DeepSeek's own releases.

    FP8 weights are dequantised exactly; master weights are FP32 whatever the file holds.

    Parameters
    ----------
    folder
        Holds ``config.json`` and ``model.safetensors``, or shards and ``model.safetensors.index.json``.
    precision
        In which the model will compute.
    mtp_layers
        Depths of multi-token prediction to load. None: as many as the config states. transformers saves
        a model without them and leaves the config at 1: such a folder asks for 0.

    Returns
    -------
    Transformer

    Raises
    ------
    CheckpointError
        A file is missing, cut or damaged; tensors are missing, unexpected or of another shape (they are
        named); or the config asks for something that this model does not compute.
    """
    folder = Path(folder)
    config = read_config(folder)
    stated = config.num_nextn_predict_layers
    if mtp_layers is not None:
        config = dataclasses.replace(config, num_nextn_predict_layers=mtp_layers)
    with torch.device("meta"):
        model = Transformer(config, precision)
    model.to_empty(device=device)
    with TensorFolder(folder) as files:
        _check_names(files, config, ignored_mtp_layers=max(stated - config.num_nextn_predict_layers, 0))
        state = model.state_dict()
        for weight in weights(config):
            _fill(state[weight.ours], weight, files)
        for copy in copies(config):
            if copy.name in files.names and not torch.equal(files.read(copy.name), files.read(copy.of)):
                raise CheckpointError(
                    f"{folder}: {copy.name} differs from {copy.of}, which multi-token prediction shares"
                )
    return model


def save_hf(
    model: Transformer,
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    fp8: bool = False,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model in the published layout, loadable by transformers.

    transformers finds the layers of multi-token prediction only after
    ``DeepseekV3ForCausalLM._keys_to_ignore_on_load_unexpected = [r"model\\.layers\\.<L>\\..*"]`` with L
    the number of hidden layers (it has 61 built in); without that they are ignored.

    Parameters
    ----------
    folder
        Made if needed; must not hold a model yet. ``config.json`` is written last, so that an interrupted
        export is no model.
    dtype
        Of the weights on disk; the router's bias stays FP32.
    fp8
        Projections as e4m3 with a multiplier for each 128 x 128 block; the rest in ``dtype``.
    max_shard_bytes
        A larger model is cut into files of about this size, with an index.

    Raises
    ------
    CheckpointError
        The folder holds a model already, or cannot be written.
    """
    folder = Path(folder)
    refuse_existing_model(folder)
    table = {piece: (weight, i) for weight in weights(model.config) for i, piece in enumerate(weight.pieces)}
    for copy in copies(model.config):
        table[copy.name] = table[copy.of]
    state = model.state_dict()
    write_tensors(
        folder,
        _sizes(table, state, dtype),
        lambda name: _on_disk(name, table, state, dtype, fp8),
        max_shard_bytes,
    )
    dtype_name = str(dtype).removeprefix("torch.")
    write_text(folder / "config.json", write_config_text(model.config, dtype_name, fp8))


def _check_names(files: TensorFolder, config: ModelConfig, ignored_mtp_layers: int) -> None:
    wanted = [piece for weight in weights(config) for piece in weight.pieces]
    allowed = {*wanted, *(copy.name for copy in copies(config))}
    first_ignored = config.num_hidden_layers + config.num_nextn_predict_layers
    ignored = tuple(f"model.layers.{first_ignored + i}." for i in range(ignored_mtp_layers))
    missing = [name for name in wanted if name not in files.names]
    unexpected = [
        name
        for name in files.names
        if name.removesuffix(fp8_blocks.SCALE_SUFFIX) not in allowed
        and not name.startswith(ignored)
        and not name.endswith(DERIVED)
    ]
    if missing or unexpected:
        problems = [_listed("missing", missing)] if missing else []
        problems += [_listed("unexpected", unexpected)] if unexpected else []
        if any(name.startswith(f"model.layers.{config.num_hidden_layers}.") for name in missing):
            problems.append("load without multi-token prediction by mtp_layers=0")
        raise CheckpointError(f"{files.folder}: {'; '.join(problems)}")


def _listed(what: str, names: list[str]) -> str:
    more = ", ..." if len(names) > MAX_NAMED else ""
    return f"{len(names)} tensors are {what}: {', '.join(names[:MAX_NAMED])}{more}"


def _fill(ours: Tensor, weight: Weight, files: TensorFolder) -> None:
    """Copy the pieces of one weight into it."""
    parts = _cut(ours, len(weight.pieces))
    for part, name in zip(parts, weight.pieces, strict=True):
        shape = files.shape(name)
        if shape != tuple(part.shape):
            raise CheckpointError(
                f"{files.path(name)}: {name} has shape {list(shape)}, "
                f"but config.json asks for {list(part.shape)}"
            )
        part.copy_(_read_weight(files, name))


def _read_weight(files: TensorFolder, name: str) -> Tensor:
    value = files.read(name)
    scale_name = name + fp8_blocks.SCALE_SUFFIX
    if value.dtype != torch.float8_e4m3fn:
        if scale_name in files.names:
            raise CheckpointError(f"{files.path(name)}: {name} is {value.dtype}, yet has a {scale_name}")
        return value
    if scale_name not in files.names:
        raise CheckpointError(f"{files.path(name)}: {name} is FP8 but {scale_name} is missing")
    scale = files.read(scale_name)
    expected = fp8_blocks.scale_shape(tuple(value.shape))
    if tuple(scale.shape) != expected:
        raise CheckpointError(
            f"{files.path(scale_name)}: {scale_name} has shape {list(scale.shape)}, but a weight of "
            f"{list(value.shape)} has {list(expected)} blocks of {fp8_blocks.BLOCK}"
        )
    return fp8_blocks.dequantise(value, scale)


def _cut(ours: Tensor, pieces: int) -> Tensor | list[Tensor]:
    """Equal pieces along the rows, as views; a single piece is the weight itself."""
    if pieces == 1:
        return [ours]
    return ours.view(pieces, -1, ours.shape[-1])


def _sizes(
    table: dict[str, tuple[Weight, int]], state: dict[str, Tensor], dtype: torch.dtype
) -> Iterator[tuple[str, int]]:
    """Names and bytes at ``dtype``, by which shards are cut; FP8 shards end up smaller."""
    for name, (weight, _) in table.items():
        yield name, state[weight.ours].numel() // len(weight.pieces) * dtype.itemsize


def _on_disk(
    name: str,
    table: dict[str, tuple[Weight, int]],
    state: dict[str, Tensor],
    dtype: torch.dtype,
    fp8: bool,
) -> dict[str, Tensor]:
    """What is written for one name: the tensor, and its multipliers if it is FP8."""
    weight, index = table[name]
    value = _cut(state[weight.ours], len(weight.pieces))[index].detach().cpu()
    if fp8 and fp8_blocks.is_quantised_on_disk(name):
        data, scale = fp8_blocks.quantise(value)
        return {name: data, name + fp8_blocks.SCALE_SUFFIX: scale}
    value = value.to(torch.float32 if name.endswith(BIAS) else dtype)
    # safetensors refuses a tensor under two names, which the repeated embedding and head would be.
    return {name: value.contiguous() if name in weight.pieces else value.clone()}
