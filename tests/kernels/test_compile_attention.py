"""Latent attention compiles for Hopper without a GPU: no register is spilled, shared memory suffices."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton", reason="the kernels are written in Triton")
from compiled import HOPPER, argument_type, plain_source, spilled_bytes  # noqa: E402
from triton.experimental.gluon._runtime import GluonASTSource  # noqa: E402

from penstock.kernels import registry  # noqa: E402
from penstock.kernels.attention import (  # noqa: E402
    blocks_gluon,
    forward_gluon,
    keys_gluon,
    latent,
    latent_gluon,
    latent_triton,
    queries_gluon,
)
from penstock.kernels.gemm.tiles import SHARED_MEMORY_BYTES  # noqa: E402

BF16, FP32, FP8 = "bf16", "fp32", "fp8e4nv"


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize(
    ("name", "quantize"),
    [(name, q) for name in ("forward", "backward_keys") for q in (False, True)]
    + [("backward_queries", None)],
)
def test_attention(name: str, quantize: bool | None, documents: bool, tmp_path: Path) -> None:
    kernel = getattr(latent_triton, f"_latent_attention_{name}")
    tiles_by_name = {"forward": latent_triton.FORWARD, "backward_keys": latent_triton.KEYS}
    tile = tiles_by_name.get(name, latent_triton.QUERIES)
    rows = (tile.met, tile.own) if name == "backward_keys" else (tile.own, tile.met)
    constants: dict[str, object] = {
        "DN": 128,
        "DR": 64,
        "DV": 128,
        "BM": rows[0],
        "BN": rows[1],
        "DOCUMENTS": documents,
    }
    pointers = dict.fromkeys(("lse", "delta", "s"), FP32) | dict.fromkeys(("starts", "ends"), "i32")
    pointers["q"] = FP8
    if quantize is not None:
        constants["QUANTIZE"] = quantize
        pointers["dkv"] = FP8 if quantize else BF16
    signature = {
        argument: "constexpr" if argument in constants else argument_type(argument, pointers, BF16)
        for argument in kernel.arg_names
    }
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    compiled = triton.compile(plain_source(kernel, signature, constants), target=HOPPER, options=options)
    assert compiled.metadata.shared <= latent_triton.shared_memory_bytes(128 + 64 + 128, hopper=True)
    assert compiled.metadata.shared <= SHARED_MEMORY_BYTES
    assert spilled_bytes(compiled.asm["ptx"], tmp_path) == 0


@pytest.mark.parametrize(
    ("capability", "features", "has_room"),
    [
        ((9, 0), 320, True),
        ((8, 0), 320, True),
        ((8, 9), 320, False),
        ((8, 9), 160, True),
        ((9, 0), 448, False),
    ],
)
def test_attention_of_heads_too_wide_for_a_card_is_left_to_the_library(
    capability: tuple[int, int], features: int, has_room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "capability", lambda _: capability)
    assert latent._has_room(features, torch.device("cuda", 0)) == has_room


def descriptors(dtype: str, queries: int, keys: int, quantize: bool) -> dict[str, str]:
    """Types of all that the Gluon kernels are given, for blocks of so many rows."""
    layout = repr(latent_gluon.SWIZZLED[2])
    blocks = {"qn": (queries, 128), "qr": (queries, 64), "do": (queries, 128)}
    blocks |= {"kn": (keys, 128), "kr": (keys, 64), "v": (keys, 128)}
    blocks |= {"o": (64, 128), "dqn": (64, 128), "dqr": (64, 64), "dkv": (64, 128), "dkr": (64, 64)}
    found = {
        name: f"tensordesc<{dtype}[{rows}, {columns}],{layout}>" for name, (rows, columns) in blocks.items()
    }
    found["data"] = f"tensordesc<{FP8}[64, 128],{blocks_gluon.BYTES.value!r}>"
    if quantize:
        found["dkv"] = found["data"]
    for name, kind in (("lse", FP32), ("delta", FP32), ("starts", "i32")):
        found[name] = f"tensordesc<{kind}[{queries}],{latent_gluon.STATISTICS!r}>"
    return {f"{name}_desc": kind for name, kind in found.items()}


@pytest.mark.parametrize("dtype", [BF16, "fp16"])
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize(
    ("name", "quantize"),
    [("forward", False), ("forward", True), ("keys", False), ("keys", True), ("queries", False)],
)
def test_attention_in_gluon(name: str, quantize: bool, documents: bool, dtype: str, tmp_path: Path) -> None:
    if name == "queries" and quantize:
        pytest.skip("their gradients are not quantised")
    module = {"forward": forward_gluon, "keys": keys_gluon, "queries": queries_gluon}[name]
    kernel, blocks = getattr(module, f"latent_attention_{name}"), getattr(latent_gluon, name.upper())
    constants: dict[str, object] = {"DOCUMENTS": documents, "QUANTIZE": quantize, "data_desc": None}
    constants |= blocks | {"REGISTERS": latent_gluon.REGISTERS}
    kinds = descriptors(dtype, blocks.get("BM", 64), blocks.get("BN", 64), quantize)
    if name == "forward" and quantize:
        del constants["data_desc"]
    if not documents:
        constants["starts_desc"] = None
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    pointers = dict.fromkeys(("lse", "delta", "scale"), FP32) | dict.fromkeys(("starts", "ends"), "i32")
    signature = {
        argument: "constexpr" if argument in constants
        else kinds[argument] if argument in kinds
        else argument_type(argument, pointers, FP32)
        for argument in kernel.arg_names
    }  # fmt: skip
    plain = plain_source(kernel, signature, constants)
    source = GluonASTSource(kernel, signature, plain.constants, plain.attrs)
    compiled = triton.compile(source, target=HOPPER, options={"num_warps": 4})
    assert compiled.metadata.shared <= SHARED_MEMORY_BYTES
    assert spilled_bytes(compiled.asm["ptx"], tmp_path) == 0


HEADS: dict[str, tuple[int, ...]] = {"qn": (2, 256, 3, 192), "qr": (2, 256, 3, 64), "kv": (2, 256, 3, 256)}


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        (lambda t: t, True),
        (lambda t: t.contiguous(), True),
        (lambda t: t[:, :200], False),
        (lambda t: t[..., :32], False),
        (lambda t: t.transpose(1, 2).contiguous().transpose(1, 2), False),
        (lambda t: torch.cat([t, t], 1)[:, :256], False),
        (lambda t: t[:, :1].expand(t.shape), False),
        (lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape), False),
        (lambda t: torch.cat([t, t[..., :4]], -1)[..., : t.shape[-1]], False),
    ],
)
def test_what_the_gluon_kernels_can_walk(change: Callable[[Tensor], Tensor], fits: bool) -> None:
    qn, qr, kv = (torch.zeros(size, dtype=torch.bfloat16) for size in HEADS.values())
    given = qn[..., :128], qr, kv, torch.zeros(2, 256, 64, dtype=torch.bfloat16)
    assert latent_gluon.fits(*given)
    for i in range(2):
        changed = list(given)
        changed[i] = change(given[i])
        if changed[i].shape[1] != 256:
            changed = [t[:, : changed[i].shape[1]] for t in given]
        assert latent_gluon.fits(*changed) == fits


def test_the_kernels_are_as_short_as_promised() -> None:
    for module in (blocks_gluon, forward_gluon, keys_gluon, queries_gluon, latent_triton):
        for name, value in vars(module).items():
            if isinstance(value, triton.JITFunction):
                assert len(inspect.getsource(value.fn).splitlines()) <= 120, name
