"""How kernels are compiled for Hopper without a GPU, and what the assembler says of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HOPPER = GPUTarget("cuda", 90, 32)
PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
COUNTS = ("M_OUT", "count", "rows", "columns", "programs", "blocks", "parts", "angles_count")


def plain_source(
    kernel: object, signature: dict[str, str], constants: dict[str, object], uneven: tuple[str, ...] = ()
) -> ASTSource:
    """As a launch specialises it: pointers aligned, sizes but those ``uneven`` multiples of 16."""
    names = list(signature)
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if (kind == "i32" and name not in uneven) or kind.startswith("*")
    }
    positions = {(names.index(name),): value for name, value in constants.items()}
    return ASTSource(kernel, signature, positions, aligned)


def argument_type(name: str, pointers: dict[str, str], default: str) -> str:
    if name.endswith("_ptr"):
        return "*" + pointers.get(name.removesuffix("_ptr"), default)
    size = name in COUNTS or (len(name) == 1 and name.isupper()) or "stride" in name or name.endswith("_head")
    return "i32" if size else "fp32"


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
