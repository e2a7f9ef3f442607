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
    backward_keys_gluon,
    backward_queries_gluon,
    blocks_gluon,
    forward_gluon,
    latent,
    latent_gluon,
    latent_triton,
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
    blocks |= {"o": (64, 64), "dqn": (64, 64), "dqr": (64, 64), "dkv": (64, 64)}
    found = {
        name: f"tensordesc<{dtype}[{rows}, {columns}],{layout}>" for name, (rows, columns) in blocks.items()
    }
    found["data"] = f"tensordesc<{FP8}[64, 128],{blocks_gluon.BYTES.value!r}>"
    if quantize:
        found["dkv"] = found["data"]
    for name, kind in (("lse", FP32), ("delta", FP32), ("starts", "i32")):
        found[name] = f"tensordesc<{kind}[{queries}],{latent_gluon.STATISTICS!r}>"
    return {f"{name}_desc": kind for name, kind in found.items()}


@pytest.mark.parametrize(("documents", "dtype"), [(False, BF16), (True, BF16), (True, "fp16")])
@pytest.mark.parametrize(
    ("name", "quantize"),
    [
        ("forward", False),
        ("forward", True),
        ("backward_keys", False),
        ("backward_keys", True),
        ("backward_queries", False),
    ],
)
def test_attention_in_gluon(name: str, quantize: bool, documents: bool, dtype: str, tmp_path: Path) -> None:
    modules = (forward_gluon, backward_keys_gluon, backward_queries_gluon)
    kernel = next(k for m in modules if (k := getattr(m, f"latent_attention_{name}", None)))
    blocks = getattr(latent_gluon, name.removeprefix("backward_").upper())
    constants: dict[str, object] = {"DOCUMENTS": documents, "QUANTIZE": quantize, "data_desc": None}
    constants |= blocks | {"REGISTERS": latent_gluon.REGISTERS}
    kinds = descriptors(dtype, blocks.get("BM", 64), blocks.get("BN", 64), quantize)
    if name == "forward" and quantize:
        del constants["data_desc"]
    if not documents:
        constants["starts_desc"] = None
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    pointers = dict.fromkeys(("starts", "ends", "taken"), "i32") | {"dkr": dtype}
    signature = {
        argument: "constexpr" if argument in constants
        else kinds[argument] if argument in kinds
        else argument_type(argument, pointers, FP32)
        for argument in kernel.arg_names
    }  # fmt: skip
    plain = plain_source(kernel, signature, constants, uneven=("B", "H"))
    source = GluonASTSource(kernel, signature, plain.constants, plain.attrs)
    compiled = triton.compile(source, target=HOPPER, options={"num_warps": 4})
    assert compiled.metadata.shared <= SHARED_MEMORY_BYTES
    assert spilled_bytes(compiled.asm["ptx"], tmp_path) == 0


def operands(size: int = 256) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries and keys as slices of products, as a model has them."""
    q, q_rope, kv = (torch.zeros(2, size, 3, width, dtype=torch.bfloat16) for width in (192, 64, 256))
    return q[..., :128], q_rope, kv, torch.zeros(2, size, 64, dtype=torch.bfloat16)


def between_words(t: Tensor) -> Tensor:
    return torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape)


@pytest.mark.parametrize("changed", range(4))
@pytest.mark.parametrize(
    ("change", "fits"),
    [
        (lambda t: t.contiguous(), True),
        (lambda t: torch.cat([t, t], 1)[:1, :256], True),
        (lambda t: torch.cat([t, t], 1)[:, :256], False),
        (lambda t: t[:, :1].expand(t.shape), False),
        (between_words, False),
        (lambda t: torch.cat([t, t[..., :4]], -1)[..., : t.shape[-1]], False),
        (lambda t: t.repeat_interleave(2, -1)[..., ::2], False),
    ],
)
def test_what_the_gluon_kernels_can_walk(
    change: Callable[[Tensor], Tensor], fits: bool, changed: int
) -> None:
    given = list(operands())
    given[changed] = change(given[changed])
    rows = given[changed].shape[0]
    assert latent_gluon.fits(*(t[:rows] for t in given), scale=0.1) == fits


def test_which_kernels_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "backend", lambda *_: "gluon")
    assert latent._kernels(*operands(), 0.1) is latent_gluon
    assert latent._kernels(*operands(), 0.0) is latent_triton, "a row's largest score is found before scaling"
    assert latent._kernels(*operands(), -0.1) is latent_triton
    assert latent._kernels(*operands(200), 0.1) is latent_triton, "no whole blocks"
    q, q_rope, kv, k_rope = operands()
    assert latent._kernels(q[..., :64], q_rope, kv, k_rope, 0.1) is latent_triton
    monkeypatch.setattr(registry, "backend", lambda *_: "triton")
    assert latent._kernels(*operands(), 0.1) is latent_triton


@pytest.mark.parametrize("change", [between_words, lambda t: t.repeat_interleave(2, -1)[..., ::2]])
def test_what_no_kernel_can_walk_is_copied(change: Callable[[Tensor], Tensor]) -> None:
    q = operands()[0]
    assert latent._rows_in_one_piece(q) is q
    copy = latent._rows_in_one_piece(change(q))
    assert copy.data_ptr() % 16 == 0
    assert copy.is_contiguous()


def test_the_kernels_are_as_short_as_promised() -> None:
    for module in (blocks_gluon, forward_gluon, backward_keys_gluon, backward_queries_gluon, latent_triton):
        for name, value in vars(module).items():
            if isinstance(value, triton.JITFunction):
                assert len(inspect.getsource(value.fn).splitlines()) <= 120, name
