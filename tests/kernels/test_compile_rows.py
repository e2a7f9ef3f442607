"""Gluon's kernels on rows compile for Hopper without a GPU: no register is spilled, or one where that is
faster, and a multiprocessor has room for as many programs as they count on.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="the kernels are written in Triton")
from compiled import HOPPER, argument_type, plain_source, spilled_bytes  # noqa: E402
from triton.experimental.gluon._runtime import GluonASTSource  # noqa: E402

from penstock.kernels.adamw import adamw_gluon  # noqa: E402
from penstock.kernels.gemm.tiles import SHARED_MEMORY_BYTES  # noqa: E402
from penstock.kernels.norm import backward_gluon, forward_gluon, rows_gluon  # noqa: E402
from penstock.kernels.quantize import both_gluon, transpose_gluon  # noqa: E402
from penstock.kernels.swiglu import quantized_gluon  # noqa: E402

WIDEST = rows_gluon.MOST_COLUMNS
SIZES = [100, 256, 260, 512, 640, 768, 900, 1024, 1028, 1152, 1280, 1284, 1536, 1540, 2048, 2052, 2560, 5120]
SIZES += [WIDEST - 4, WIDEST]
"""Of rows that norms handle: in chunks of which all are full, and in others."""
TILE = f"tensordesc<fp8e4nv[128, 128],{transpose_gluon.TILE!r}>"


def shared_memory(
    kernel: Any,
    pointers: dict[str, str],
    constants: dict[str, object],
    folder: Path,
    uneven: tuple[str, ...] = (),
    spilled: int = 0,
    **options: int | None,
) -> int:
    """Bytes a compiled program takes. ``pointers``: types of what pointers lead to, and of descriptors;
    ``uneven``: sizes that are no multiples of 16; ``spilled``: bytes that may be stored and read again.
    """
    signature = {
        argument: "constexpr" if argument in constants else argument_type(argument, pointers, "fp32")
        for argument in kernel.arg_names
    }
    signature |= {name: kind for name, kind in pointers.items() if name.endswith("_desc")}
    plain = plain_source(kernel, signature, constants, uneven)
    source = GluonASTSource(kernel, signature, plain.constants, plain.attrs)
    compiled = triton.compile(source, target=HOPPER, options=options)
    assert spilled_bytes(compiled.asm["ptx"], folder) <= spilled
    return compiled.metadata.shared


def has_room(programs: int, shared: int) -> bool:
    """A multiprocessor has a kilobyte more than one program may use, and each program takes one."""
    return programs * (shared + 1024) <= SHARED_MEMORY_BYTES + 1024


def uneven_quads(size: int) -> tuple[str, ...]:
    """What of rows of ``size`` columns, in elements of four, is no multiple of 16."""
    return ("Q", "x_stride") if size // 4 % 16 else ()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_swiglu_backward(dtype: str, weighted: bool, tmp_path: Path) -> None:
    operand = f"tensordesc<{dtype}[{quantized_gluon.ROWS}, 128],{quantized_gluon.OPERANDS!r}>"
    pointers = {"q": "fp8e4nv", "ds_desc": operand, "h_desc": operand, "t_desc": TILE, "a_desc": TILE}
    constants = {"WEIGHTED": weighted, "ROWS": quantized_gluon.ROWS, "STAGES": quantized_gluon.STAGES}
    options = {"num_warps": quantized_gluon.WARPS, "maxnreg": quantized_gluon.REGISTERS}
    kernel = quantized_gluon.swiglu_backward_quantize_kernel
    assert has_room(quantized_gluon.RESIDENT, shared_memory(kernel, pointers, constants, tmp_path, **options))
    assert quantized_gluon.RESIDENT * quantized_gluon.WARPS * 32 * quantized_gluon.REGISTERS <= 65536


@pytest.mark.parametrize("gather", [False, True])
def test_transpose_shift(gather: bool, tmp_path: Path) -> None:
    pointers = {"q": "fp8e4nv", "rows": "i32", "t_desc": TILE}
    kernel, options = transpose_gluon.transpose_shift_kernel, {"num_warps": transpose_gluon.WARPS}
    assert has_room(8, shared_memory(kernel, pointers, {"GATHER": gather}, tmp_path, **options))


def test_quantize_both(tmp_path: Path) -> None:
    tile = f"tensordesc<i32[128, 32],{both_gluon.TILE!r}>"
    pointers = {"x": "i64", "q_desc": tile, "t_desc": tile}
    options = {"num_warps": both_gluon.WARPS, "maxnreg": both_gluon.REGISTERS}
    assert has_room(4, shared_memory(both_gluon.quantize_both_kernel, pointers, {}, tmp_path, **options))
    assert 4 * both_gluon.WARPS * 32 * both_gluon.REGISTERS <= 65536


@pytest.mark.parametrize("gradient", ["fp32", "bf16"])
def test_adamw_quantize(gradient: str, tmp_path: Path) -> None:
    tile = f"tensordesc<i32[128, 32],{both_gluon.TILE!r}>"
    pointers = {"g": gradient, "m": "bf16", "v": "bf16", "q_desc": tile, "t_desc": tile}
    kernel, constants = adamw_gluon.adamw_quantize_kernel, {"SLAB": adamw_gluon.SLAB}
    options = {"num_warps": adamw_gluon.WARPS, "maxnreg": adamw_gluon.REGISTERS}
    assert has_room(2, shared_memory(kernel, pointers, constants, tmp_path, **options))
    assert 2 * adamw_gluon.WARPS * 32 * adamw_gluon.REGISTERS <= 65536


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("add", "choices", "keep", "quantize"),
    [
        (False, 0, True, False),
        *((add, 0, keep, True) for add in (False, True) for keep in (False, True)),
        *((add, 6, False, True) for add in (False, True)),
    ],
)
def test_rms_norm(add: bool, choices: int, keep: bool, quantize: bool, size: int, tmp_path: Path) -> None:
    pointers = dict.fromkeys(("x", "delta", "rows", "sum", "y"), "i64") | {"pos": "i32", "q": "i32"}
    plan = forward_gluon.plan_for(size, add, choices, keep, quantize)
    constants = {
        "ADD": add,
        "CHOICES": choices,
        "KEEP": keep,
        "QUANTIZE": quantize,
        "STAY": plan.resident > 0,
    }
    constants |= plan.tile._asdict() | {"EVEN": plan.tile.is_even(size)}
    options = {"num_warps": forward_gluon.WARPS, "maxnreg": plan.registers}
    shared = shared_memory(
        forward_gluon.rms_norm_kernel, pointers, constants, tmp_path, uneven_quads(size), **options
    )
    assert has_room(plan.resident, shared)
    assert plan.resident * forward_gluon.WARPS * 32 * (plan.registers or 0) <= 65536


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("first", "join", "choices", "quantize"),
    [(True, True, 6, True), (True, True, 8, True), (True, False, 8, True), (False, False, 8, False)],
)
@pytest.mark.parametrize("add", [False, True])
def test_rms_norm_backward(
    add: bool, first: bool, join: bool, choices: int, quantize: bool, size: int, tmp_path: Path
) -> None:
    operands = ("dy", "more", "rows", "x", "dsum", "dx")
    pointers = dict.fromkeys(operands, "i64") | {"pos": "i32", "q": "i32"}
    tile = backward_gluon.tile_for(size)
    constants = {"ADD": add, "FIRST": first, "JOIN": join, "CHOICES": choices, "QUANTIZE": quantize}
    constants |= tile._asdict() | {"EVEN": tile.is_even(size)}
    kernel, warps = backward_gluon.rms_norm_backward_kernel, tile.ROWS * tile.ACROSS
    resident = backward_gluon.resident_warps(tile, size)
    options = {"num_warps": warps, "maxnreg": rows_gluon.registers_for(resident)}
    # 2560 columns: twelve warps that spill one register take a tenth less time than eight that spill none.
    spilled = 8 if resident == 12 and tile.CHUNKS == 3 else 0
    shared = shared_memory(kernel, pointers, constants, tmp_path, uneven_quads(size), spilled, **options)
    assert has_room(resident // warps, shared)
    assert resident * 32 * rows_gluon.registers_for(resident) <= 65536


def test_kernels_are_as_short_as_promised() -> None:
    modules = (adamw_gluon, backward_gluon, both_gluon, forward_gluon, quantized_gluon, transpose_gluon)
    for module in modules:
        for name, value in vars(module).items():
            if isinstance(value, triton.JITFunction):
                assert len(inspect.getsource(value.fn).splitlines()) <= 120, name
