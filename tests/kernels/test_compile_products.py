"""Every product compiles for Hopper without a GPU: no register is spilled, shared memory suffices."""

from __future__ import annotations

import inspect
import math
import re
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

triton = pytest.importorskip("triton", reason="the kernels are written in Triton")
from compiled import HOPPER, argument_type, plain_source, spilled_bytes  # noqa: E402
from triton.experimental.gluon._runtime import GluonASTSource  # noqa: E402

from penstock.kernels import registry  # noqa: E402
from penstock.kernels.gemm import (  # noqa: E402
    gemm_gluon,
    gemm_triton,
    launch_gluon,
    results_gluon,
    sums_gluon,
    tiles,
    tiles_gluon,
)

PRODUCTS = list(product(("dense", "rows"), ("row_block",), (False,), ("bf16", "fp32")))
PRODUCTS += product(("dense", "tokens"), ("row_row", "block_block"), (False, True), ("fp32",))


@pytest.mark.parametrize("rows", [256, 128])
@pytest.mark.parametrize(("kind", "scales", "add", "out"), PRODUCTS)
def test_the_hopper_kernel(kind: str, scales: str, add: bool, rows: int, out: str, tmp_path: Path) -> None:
    compile_for_hopper(kind, scales, add, rows, out, 1, tmp_path)


@pytest.mark.parametrize(("problems", "add"), [(2, True), (5, False), (tiles.LONGEST_LIST, True)])
@pytest.mark.parametrize("rows", [256, 128])
@pytest.mark.parametrize("scales", ["row_row", "block_block"])
def test_the_hopper_kernel_for_lists(
    scales: str, rows: int, problems: int, add: bool, tmp_path: Path
) -> None:
    compile_for_hopper("dense", scales, add, rows, "fp32", problems, tmp_path)


@pytest.mark.parametrize("tiles_in_a_turn", [0.5, 1.5])
@pytest.mark.parametrize(("kind", "scales", "add", "out"), [case for case in PRODUCTS if case[0] == "dense"])
def test_the_hopper_kernel_with_idle_multiprocessors(
    kind: str, scales: str, add: bool, out: str, tiles_in_a_turn: float, tmp_path: Path
) -> None:
    compile_for_hopper(kind, scales, add, 256, out, 1, tmp_path, math.ceil(256 / tiles_in_a_turn))


def compile_for_hopper(
    kind: str, scales: str, add: bool, rows: int, out: str, problems: int, folder: Path, programs: int = 0
) -> None:
    """With ``programs`` a product of 2 * 128 tall tiles for so many multiprocessors."""
    out_bytes = 2 if out == "bf16" else 4
    tile, halves = tiles.hopper_tile(kind, scales, [rows], out_bytes), False
    if programs:
        tile, halves = tiles.cut(tile, scales, (512, 128 * 128, 128), out_bytes, programs)
        assert halves or tile.rows == tile.columns, "nobody is idle"
        assert tile.stages * tile.rows * 128 >= 2 * 64 * 128 * 4, "two sums meet where A was"
    bytes_, words = launch_gluon.SWIZZLED[1], launch_gluon.SWIZZLED[out_bytes]
    problem = (
        f"tensordesc<fp8e4nv[64, 128],{bytes_!r}>",
        f"tensordesc<fp8e4nv[128, 128],{bytes_!r}>",
        f"tensordesc<{out}[64, 128],{words!r}>",
        f"tensordesc<fp32[{tile.rows}],{launch_gluon.SCALES!r}>",
        f"tensordesc<fp32[{tile.columns}],{launch_gluon.SCALES!r}>",
        ("*fp32", "*fp32", f"*{out}"),
    )
    constants = {
        "PROBLEMS": problems,
        "SCALES": scales,
        "KIND": kind,
        "BM": tile.rows,
        "BN": tile.columns,
        "ADD": add,
        "STAGES": tile.stages,
        "GROUP": tile.group,
        "PROGRAMS": programs or 132,
        "HALVES": halves,
        "REGISTERS": tile.registers,
    }
    kernel = gemm_gluon.block_scaled_gemm
    unused = len(problem) * (tiles.LONGEST_LIST - problems)
    types = [
        *problem * problems,
        *["constexpr"] * unused,
        *["*i32"] * 3,
        *["i32"] * 4,
        *["constexpr"] * len(constants),
    ]
    signature = dict(zip(kernel.arg_names, types, strict=True))
    constants |= dict.fromkeys(kernel.arg_names[len(problem) * problems :][:unused])
    positions = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = GluonASTSource(fn=kernel, signature=signature, constexprs=positions)
    compiled = triton.compile(source, target=HOPPER, options={"num_warps": 4})
    assert compiled.metadata.shared <= tiles.SHARED_MEMORY_BYTES
    assert tile.stages >= 3
    # Those from 8 on are ours, by which warpgroups take turns; the compiler's begin a line.
    barriers = re.findall(r"^\s*bar\S*\s+(\d+)", compiled.asm["ptx"], re.M)
    assert max(map(int, barriers)) < 8
    adds = "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add" in compiled.asm["ptx"]
    assert adds == add
    assert spilled_bytes(compiled.asm["ptx"], folder) == 0


FALLBACKS = [
    (*case, tile)
    for case in PRODUCTS
    for tile in (gemm_triton.SMALL, gemm_triton.LARGE, gemm_triton.WIDE)
    if not tile.wide or case[1] != "row_row"  # these would spill, and are never chosen
]


@pytest.mark.parametrize(("kind", "scales", "add", "out", "tile"), FALLBACKS)
def test_the_fallback_product(
    kind: str, scales: str, add: bool, out: str, tile: gemm_triton.Tile, tmp_path: Path
) -> None:
    kernel = gemm_triton.block_scaled_gemm
    constants = {"SCALES": scales, "KIND": kind, "ADD": add}
    constants |= {"GROUP": tile.group, "BM": tile.rows, "WIDE": tile.wide}
    types = {"a_desc": f"tensordesc<fp8e4nv[{tile.rows}, 128]>", "b_desc": "tensordesc<fp8e4nv[128, 128]>"}
    pointers = {"c": out, "sa": "fp32", "sb": "fp32"}
    signature = {
        name: "constexpr" if name in constants else types.get(name) or argument_type(name, pointers, "i32")
        for name in kernel.arg_names
    }
    source = plain_source(kernel, signature, constants)
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    compiled = triton.compile(source, target=HOPPER, options=options)
    # Loads of the blocks to come are on their way: every stage has operands of its own.
    operands = tile.stages * (tile.rows + tile.columns) * 128
    assert operands <= compiled.metadata.shared <= tile.shared_memory_bytes
    assert tile != gemm_triton.SMALL or compiled.metadata.shared <= 99 << 10  # as consumer cards have
    assert spilled_bytes(compiled.asm["ptx"], tmp_path) == 0


@pytest.mark.parametrize(
    ("scales", "size", "copies", "shared_memory_bytes", "tile"),
    [
        ("row_block", (8192, 4096, 7168), 1, 227 << 10, "WIDE"),
        ("row_row", (8192, 4096, 7168), 1, 227 << 10, "LARGE"),
        ("row_block", (8192, 1280, 4096), 1, 227 << 10, "LARGE"),  # 320 wide tiles fill 2.4 turns
        ("row_block", (8192, 24576, 1536), 1, 227 << 10, "WIDE"),
        ("row_block", (8192, 1280, 1280), 1, 227 << 10, "SMALL"),
        ("block_block", (1280, 640, 64 * 1024), 64, 227 << 10, "SMALL"),
        ("block_block", (1280, 640, 64 * 1536), 64, 227 << 10, "WIDE"),
        ("row_block", (8192, 4096, 7168), 1, 163 << 10, "LARGE"),
        ("row_block", (8192, 4096, 7168), 1, 99 << 10, "SMALL"),
    ],
)
def test_the_fallback_takes_a_tile_that_fits(
    scales: str,
    size: tuple[int, int, int],
    copies: int,
    shared_memory_bytes: int,
    tile: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "multiprocessors", lambda _: 132)
    monkeypatch.setattr(registry, "shared_memory_bytes", lambda _: shared_memory_bytes)
    kind = "dense" if copies == 1 else "tokens"
    case = SimpleNamespace(scales=scales, size=size, n_experts=copies, kind=kind, c=torch.empty(0))
    assert gemm_triton.tile_for(case) == getattr(gemm_triton, tile)


def test_the_kernels_are_as_short_as_promised() -> None:
    for module in (gemm_gluon, results_gluon, sums_gluon, tiles_gluon, gemm_triton):
        for name, value in vars(module).items():
            if isinstance(value, triton.JITFunction):
                assert len(inspect.getsource(value.fn).splitlines()) <= 120, name
