"""Every plain kernel compiles for Hopper without a GPU: no register is spilled, shared memory suffices."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest

triton = pytest.importorskip("triton", reason="the kernels are written in Triton")
from compiled import HOPPER, argument_type, plain_source, spilled_bytes  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from penstock.kernels.adamw import adamw_triton  # noqa: E402
from penstock.kernels.cross_entropy import cross_entropy_triton  # noqa: E402
from penstock.kernels.embedding import embedding_triton  # noqa: E402
from penstock.kernels.gemm.tiles import SHARED_MEMORY_BYTES  # noqa: E402
from penstock.kernels.gradient_norm import gradient_norm_triton  # noqa: E402
from penstock.kernels.mla import rope_triton  # noqa: E402
from penstock.kernels.norm import norm_triton  # noqa: E402
from penstock.kernels.permute import permute_triton  # noqa: E402
from penstock.kernels.quantize import quantize_triton  # noqa: E402
from penstock.kernels.route import balance_triton, logits_triton, route_triton, tables_triton  # noqa: E402
from penstock.kernels.swiglu import quantized_triton, swiglu_triton  # noqa: E402

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
    names = ("x", "delta", "rows", "sum", "y", "dy", "more", "dsum", "dx")
    pointers = dict.fromkeys(names, BF16) | {"q": FP8, "pos": INT}
    for size, add in product((1280, 512, 2048, 7168), (False, True)):
        tile = norm_triton.tile_for(size)
        for keep, quantize, choices in (
            (True, False, 0),
            (True, True, 0),
            (False, True, 0),
            (False, True, 8),
        ):
            constants = {"ADD": add, "CHOICES": choices, "KEEP": keep, "QUANTIZE": quantize}
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


def quantize_cases() -> Iterator[tuple[ModuleType, str, dict[str, object], dict[str, str], int]]:
    for x, power in product((BF16, FP32), (True, False)):
        pointers = {"x": x, "q": FP8, "t": FP8}
        tiles = {
            "rows": dict(zip(("BM", "BK"), quantize_triton.ROW_TILE, strict=True)),
            "tokens": {"BK": quantize_triton.TOKEN_TILE_COLUMNS},
        }
        for cast, tile in tiles.items():
            yield quantize_triton, f"_quantize_{cast}", {"POWER": power, **tile}, pointers, 4
        yield quantize_triton, "_quantize_both", {"POWER": power}, pointers, quantize_triton.BOTH_WARPS[power]
        yield quantize_triton, "_quantize_weight", {"POWER": power}, pointers | {"w": x}, 8


KERNELS = [
    *quantize_cases(),
    (quantize_triton, "_transpose_weight", {}, {"q": FP8, "t": FP8}, 4),
    (quantize_triton, "_transpose_shift", {"GATHER": True}, {"q": FP8, "t": FP8, "rows": "i32"}, 4),
    (quantize_triton, "_transpose_shift", {"GATHER": False}, {"q": FP8, "t": FP8, "rows": "i32"}, 4),
    *norm_cases(),
    *rope_cases(),
    (embedding_triton, "_embedding_gather", {"BT": 4, "BD": 512}, {"tokens": "i64", "out": BF16}, 4),
    (
        embedding_triton,
        "_embedding_gradient",
        dict(zip(("BT", "BD"), embedding_triton.GRADIENT_TILE, strict=True)),
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
    *[
        (
            logits_triton,
            "_router_backward_input",
            {name: logits_triton.INPUT_TILE[name] for name in ("BT", "BD", "BE")},
            {"dx": dtype},
            logits_triton.INPUT_TILE["num_warps"],
        )
        for dtype in (BF16, FP32)
    ],
    (quantized_triton, "_swiglu_quantize", {"ROWS": quantized_triton.FORWARD_ROWS}, {"h": BF16, "q": FP8}, 4),
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
        {"WEIGHTED": True, **dict(zip(("BM", "BD"), permute_triton.TILE, strict=True))},
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
    assert compiled.metadata.shared <= SHARED_MEMORY_BYTES
    assert spilled_bytes(compiled.asm["ptx"], tmp_path) == 0


@pytest.mark.parametrize("tensors", [1, gradient_norm_triton.TENSORS])
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_sums_of_squares_of_several_tensors(dtype: str, tensors: int, tmp_path: Path) -> None:
    """Whichever tensor a program reads, it reads in vectors of 16 bytes."""
    kernel = gradient_norm_triton._sums_of_squares
    signature = {"tensors": (f"*{dtype}",) * tensors, "counts": ("i32",) * tensors, "sums_ptr": "*fp64"}
    signature |= dict.fromkeys(("CHUNK", "BLOCK"), "constexpr")
    constants = {(3,): gradient_norm_triton.CHUNK, (4,): gradient_norm_triton.BLOCK}
    aligned = {(i, t): [["tt.divisibility", 16]] for i in range(2) for t in range(tensors)}
    source = ASTSource(kernel, signature, constants, aligned)
    ptx = triton.compile(source, target=HOPPER, options={"num_warps": 8}).asm["ptx"]
    assert "ld.global.v4.b32" in ptx
    assert spilled_bytes(ptx, tmp_path) == 0


def test_the_kernels_are_as_short_as_promised() -> None:
    for module in {gradient_norm_triton, *(kernel[0] for kernel in KERNELS)}:
        for name, value in vars(module).items():
            if isinstance(value, triton.JITFunction):
                assert len(inspect.getsource(value.fn).splitlines()) <= 120, name
