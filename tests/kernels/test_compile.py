"""Every kernel compiles for Hopper without a GPU: no register is spilled, shared memory suffices."""

from __future__ import annotations

import inspect
import re
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

triton = pytest.importorskip("triton", reason="the kernels are written in Triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.experimental.gluon._runtime import GluonASTSource  # noqa: E402

from penstock.kernels import registry  # noqa: E402
from penstock.kernels.adamw import adamw_triton  # noqa: E402
from penstock.kernels.attention import latent_triton  # noqa: E402
from penstock.kernels.cross_entropy import cross_entropy_triton  # noqa: E402
from penstock.kernels.embedding import embedding_triton  # noqa: E402
from penstock.kernels.gemm import (  # noqa: E402
    gemm_gluon,
    gemm_triton,
    launch_gluon,
    results_gluon,
    sums_gluon,
    tiles,
    tiles_gluon,
)
from penstock.kernels.mla import rope_triton  # noqa: E402
from penstock.kernels.norm import norm_triton  # noqa: E402
from penstock.kernels.permute import permute_triton  # noqa: E402
from penstock.kernels.quantize import quantize_triton  # noqa: E402
from penstock.kernels.route import balance_triton, logits_triton, route_triton, tables_triton  # noqa: E402
from penstock.kernels.swiglu import quantized_triton, swiglu_triton  # noqa: E402

HOPPER = GPUTarget("cuda", 90, 32)
PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"


def plain_source(kernel: object, signature: dict[str, str], constants: dict[str, object]) -> ASTSource:
    """As a launch specialises it: pointers aligned, sizes multiples of 16."""
    names = list(signature)
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if kind == "i32" or kind.startswith("*")
    }
    positions = {(names.index(name),): value for name, value in constants.items()}
    return ASTSource(kernel, signature, positions, aligned)


PRODUCTS = list(product(("dense", "rows"), ("row_block",), (False,), ("bf16", "fp32")))
PRODUCTS += product(("dense", "tokens"), ("row_row", "block_block"), (False, True), ("fp32",))
COUNTS = ("M_OUT", "count", "rows", "columns", "programs", "blocks", "parts", "angles_count")


def spilled_bytes(ptx: str, folder: Path) -> int:
    """What the assembler says of its register allocation; and no product may wait for the one before."""
    source = folder / "kernel.ptx"
    source.write_text(ptx)
    command = [PTXAS, "-v", "--gpu-name=sm_90a", source, "-o", folder / "kernel.cubin"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = re.findall(r"(\d+) bytes spill (?:stores|loads)", said)
    assert found, said
    assert "wgmma.mma_async instructions are serialized" not in said, said
    return sum(map(int, found))


def argument_type(name: str, pointers: dict[str, str], default: str) -> str:
    if name.endswith("_ptr"):
        return "*" + pointers.get(name.removesuffix("_ptr"), default)
    size = name in COUNTS or (len(name) == 1 and name.isupper()) or "stride" in name or name.endswith("_head")
    return "i32" if size else "fp32"


@pytest.mark.parametrize("rows", [256, 128])
@pytest.mark.parametrize(("kind", "scales", "add", "out"), PRODUCTS)
def test_the_hopper_kernel(kind: str, scales: str, add: bool, rows: int, out: str, tmp_path: Path) -> None:
    compile_for_hopper(kind, scales, add, rows, out, 1, tmp_path)


@pytest.mark.parametrize("problems", [2, tiles.LONGEST_LIST])
@pytest.mark.parametrize("rows", [256, 128])
@pytest.mark.parametrize("scales", ["row_row", "block_block"])
def test_the_hopper_kernel_for_lists(scales: str, rows: int, problems: int, tmp_path: Path) -> None:
    compile_for_hopper("dense", scales, True, rows, "fp32", problems, tmp_path)


@pytest.mark.parametrize("tiles_in_a_turn", [0.5, 1.5])
@pytest.mark.parametrize(("kind", "scales", "add", "out"), [case for case in PRODUCTS if case[0] == "dense"])
def test_the_hopper_kernel_with_idle_multiprocessors(
    kind: str, scales: str, add: bool, out: str, tiles_in_a_turn: float, tmp_path: Path
) -> None:
    compile_for_hopper(kind, scales, add, 256, out, 1, tmp_path, int(256 / tiles_in_a_turn))


def compile_for_hopper(
    kind: str, scales: str, add: bool, rows: int, out: str, problems: int, folder: Path, programs: int = 0
) -> None:
    """With ``programs`` a product of 2 * 128 tall tiles for so many multiprocessors."""
    out_bytes = 2 if out == "bf16" else 4
    tile, halves = tiles.hopper_tile(kind, scales, [rows], out_bytes), False
    if programs:
        tile, halves = tiles.cut(tile, scales, (512, 128 * 128, 128), out_bytes, programs)
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
    adds = "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add" in compiled.asm["ptx"]
    assert adds == add
    assert spilled_bytes(compiled.asm["ptx"], folder) == 0


BF16, FP32, FP8, INT = "bf16", "fp32", "fp8e4nv", "i32"
PLACES = dict.fromkeys(
    ("idx", "counts", "starts", "totals", "offsets", "owner", "row_token", "token_pos"), INT
)
PLACES["valid"] = "u8"
BALANCE = {"EP": 64, "BT": balance_triton.TILE_ELEMENTS // 64, "MASKED": True}
SCAN = {"BLOCK": 128, "EP": 256, "SCANNED": tables_triton.SCANNED}
ROWS = {"x": BF16, "dx": BF16}
TABLES = {"row_token": "i32", "token_pos": "i32"}


def norm_cases() -> Iterator[tuple[ModuleType, str, dict[str, object], dict[str, str], int]]:
    """The residual stream's norm, a latent's, and that of the widest models."""
    names = ("x", "delta", "sum", "y", "dy", "more", "dsum", "dx")
    pointers = dict.fromkeys(names, BF16) | {"q": FP8}
    for size, add in product((1280, 512, 2048, 7168), (False, True)):
        tile = norm_triton.tile_for(size)
        for keep, quantize in ((True, False), (True, True), (False, True)):
            constants = {"ADD": add, "KEEP": keep, "QUANTIZE": quantize}
            constants |= {"ROWS": tile.rows, "COLUMNS": tile.columns, "CHUNKS": tile.chunks}
            yield norm_triton, "_rms_norm_forward", constants, pointers, tile.warps
        for narrow, join, quantize in product((False, True), repeat=3):
            if not narrow and (join or quantize):
                continue
            rows, block, warps, stages = norm_triton.backward_tile_for(size, narrow)
            constants = {"ADD": add, "JOIN": join, "QUANTIZE": quantize, "ROWS": rows, "BD": block}
            yield norm_triton, "_rms_norm_backward", constants | {"STAGES": stages}, pointers, warps


def rope_cases() -> Iterator[tuple[ModuleType, str, dict[str, object], dict[str, str], int]]:
    pointers = dict.fromkeys(("q", "k", "q_out", "k_out"), BF16)
    pointers |= dict.fromkeys(("dq_nope", "dq_rope", "dk_rope", "dq", "dk"), BF16)
    for interleaved in (False, True):
        constants = {"INTERLEAVED": interleaved, "HALF": 32, "ROWS": rope_triton.ROWS}
        yield rope_triton, "_rope_forward", constants, pointers, 4
        yield rope_triton, "_rope_backward", constants | {"BD": 128}, pointers, 4
        constants = {"INTERLEAVED": interleaved, "D": 128, "ROWS": rope_triton.ROWS}
        yield rope_triton, "_rope_backward_rows", constants, pointers | {"dq": FP8}, 4


KERNELS = [
    (quantize_triton, "_quantize_rows", {"BM": 8, "BK": 256}, {"x": BF16, "q": FP8}, 4),
    (
        quantize_triton,
        "_quantize_tokens",
        {"BK": quantize_triton.TOKEN_TILE_COLUMNS},
        {"x": BF16, "q": FP8},
        4,
    ),
    (quantize_triton, "_quantize_weight", {}, {"w": FP32, "q": FP8}, 8),
    (quantize_triton, "_transpose_weight", {}, {"q": FP8, "t": FP8}, 4),
    (quantize_triton, "_transpose_shift", {"GATHER": True}, {"q": FP8, "t": FP8, "rows": "i32"}, 4),
    (quantize_triton, "_transpose_shift", {"GATHER": False}, {"q": FP8, "t": FP8, "rows": "i32"}, 4),
    *norm_cases(),
    *rope_cases(),
    (embedding_triton, "_embedding_gather", {"BT": 4, "BD": 512}, {"tokens": "i64", "out": BF16}, 4),
    (
        embedding_triton,
        "_embedding_gradient",
        {"BT": 16, "BD": 256},
        {"tokens": "i64", "order": "i64", "grad": BF16},
        4,
    ),
    (swiglu_triton, "_swiglu_forward", {"BLOCK": 1024}, {"h": BF16, "y": BF16}, 4),
    (swiglu_triton, "_swiglu_backward", {"BLOCK": 1024}, {"dy": BF16, "h": BF16, "dh": BF16}, 4),
    (
        route_triton,
        "_choose_experts",
        {"BT": 32, "E": 64, "GROUPS": 8, "KEPT": 4, "K": 6, "KP": 8, "NORMALISED": True},
        {"idx": "i32", "highest": "i32"},
        4,
    ),
    (
        route_triton,
        "_choose_experts_backward",
        {"BT": 32, "E": 64, "K": 6, "NORMALISED": True},
        {"idx": "i32"},
        4,
    ),
    *[
        (tables_triton, name, {"MASKED": True, "EP": experts, "CHOICES": 16384 // experts}, PLACES, 8)
        for name in ("_count_choices", "_place_choices")
        for experts in (64, 256)
    ],
    (
        tables_triton,
        "_add_up_choices",
        {"BLOCK": 128, "EP": 256, "SCANNED": tables_triton.SCANNED},
        PLACES,
        8,
    ),
    *[
        (logits_triton, name, {"BT": tile["BT"], "BD": tile["BD"], "EP": tile["EP"]}, ROWS, tile["num_warps"])
        for name in ("_router_logits", "_router_backward_weight")
        for tile in map(logits_triton.tile_for, (8, 64, 128, 256))
    ],
    (balance_triton, "_balance_parts", BALANCE | {"K": 6}, {"highest": INT, "valid": "u8"}, 4),
    (balance_triton, "_balance_total", {"EP": 64}, {}, 4),
    (balance_triton, "_balance_backward", BALANCE, {"valid": "u8"}, 4),
    (logits_triton, "_router_backward_input", {"BT": 64, "BD": 64, "BE": 64}, ROWS, 4),
    (quantized_triton, "_swiglu_quantize", {"BM": 8, "BK": 256}, {"h": BF16, "q": FP8}, 4),
    *[
        (
            quantized_triton,
            "_swiglu_backward_quantize",
            {"WEIGHTED": weighted, "ROWS": quantized_triton.BACKWARD_ROWS},
            {"ds": BF16, "h": BF16, "q": FP8, "t": FP8, "a": FP8},
            quantized_triton.BACKWARD_WARPS,
        )
        for weighted in (False, True)
    ],
    (
        permute_triton,
        "_gather_quantized",
        {"BM": 16, "BD": 512},
        {"q": FP8, "out": FP8, "row_token": "i32"},
        4,
    ),
    (
        permute_triton,
        "_gather",
        {"WEIGHTED": True, "BLOCK": 1024},
        {"x": BF16, "out": BF16, "row_token": "i32"},
        4,
    ),
    (
        permute_triton,
        "_gather_sum",
        {"WEIGHTED": True, "EXTRA": True, "K": 6, "BLOCK": 1024},
        {"y": BF16, "extra": BF16, "out": BF16, "token_pos": "i32"},
        4,
    ),
    (permute_triton, "_row_dots", {"BLOCK": 1024}, {"grad": BF16, "y": BF16, **TABLES}, 4),
    (
        cross_entropy_triton,
        "_cross_entropy",
        {"IGNORED": -100, "GRADIENT": True, "BLOCK": cross_entropy_triton.BLOCK_COLUMNS, "WIDTH": 16},
        {"logits": BF16, "target": "i64"},
        cross_entropy_triton.WARPS,
    ),
    (adamw_triton, "_adamw", {"BLOCK": 1024, "COPY": True}, {"m": BF16, "v": BF16, "copy": BF16}, 4),
    (adamw_triton, "_adamw_quantize", {"SLAB": adamw_triton.SLAB}, {"m": BF16, "v": BF16, "q": FP8}, 8),
]


OPTIONS = {"_swiglu_backward_quantize": {"maxnreg": quantized_triton.BACKWARD_REGISTERS}}


@pytest.mark.parametrize(
    ("module", "name", "constants", "pointers", "warps"),
    KERNELS,
    ids=[f"{k[0].__name__}.{k[1]}" for k in KERNELS],
)
def test_a_plain_kernel(
    module: ModuleType,
    name: str,
    constants: dict[str, object],
    pointers: dict[str, str],
    warps: int,
    tmp_path: Path,
) -> None:
    kernel = getattr(module, name)
    signature = {
        argument: "constexpr" if argument in constants else argument_type(argument, pointers, "fp32")
        for argument in kernel.arg_names
    }
    source = plain_source(kernel, signature, constants)
    options = {"num_warps": warps, **OPTIONS.get(name, {})}
    compiled = triton.compile(source, target=HOPPER, options=options)
    for key, (value, _) in kernel.used_global_vals.items():
        # Triton compares these before every launch, and a NaN never equals itself.
        assert value == value, f"{key[0]} would make the second launch fail"
    assert compiled.metadata.shared <= tiles.SHARED_MEMORY_BYTES
    assert spilled_bytes(compiled.asm["ptx"], tmp_path) == 0


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
    assert compiled.metadata.shared <= tiles.SHARED_MEMORY_BYTES
    assert spilled_bytes(compiled.asm["ptx"], tmp_path) == 0


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
    gluon = {gemm_gluon, results_gluon, sums_gluon, tiles_gluon}
    for module in {k[0] for k in KERNELS} | gluon | {gemm_triton}:
        for name, value in vars(module).items():
            if isinstance(value, triton.JITFunction):
                assert len(inspect.getsource(value.fn).splitlines()) <= 120, name
