"""Kernels in Triton's interpreter beside their references: what the interpreted scripts share."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import conftest  # noqa: F401  (finds penstock.kernels where penstock is not installed)
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter

from penstock.kernels import registry
from penstock.kernels.numeric import relative_error, same_bits
from penstock.kernels.types import FP8

FLOAT32 = 1e-6

FORMATS = {
    tl.float8e4nv: FP8, tl.bfloat16: torch.bfloat16, tl.float16: torch.float16, tl.float32: torch.float32,
}  # fmt: skip


def cast_as_a_gpu() -> None:
    """Replace the interpreter's casts, which lose carries, NaN and subnormals, or cut off digits."""

    def convert(data: Any, source: tl.dtype, target: tl.dtype, _rounding: object) -> Any:
        x = torch.from_numpy(data).view(FORMATS[source]).float()
        if target == tl.float8e4nv:  # all NaN are one, and what is too large becomes the largest
            x = torch.where(x.isnan(), math.nan, x.clamp(-448, 448))
        return x.to(FORMATS[target]).view(getattr(torch, f"uint{target.primitive_bitwidth}")).numpy()

    interpreter._convert_float = convert


def expect(name: str, error: float, bound: float) -> None:
    assert error <= bound, f"{name}: {error} > {bound}"
    print(f"{name} agrees: {error:.2g}")


def error_of_finite(found: Tensor, expected: Tensor) -> float:
    assert torch.equal(found.isnan(), expected.isnan())
    finite = expected.isfinite()
    return relative_error(found[finite], expected[finite])


def same(found: object, expected: object) -> bool:
    """Whether two quantised tensors, or tuples of them, are equal bit for bit."""
    if isinstance(expected, tuple):
        return all(map(same, found, expected))
    return all(map(same_bits, found.parts, expected.parts))


def both(name: str, ops: tuple[str, ...], call: Callable[[], Tensor], bound: float = FLOAT32) -> None:
    results = []
    for backend in ("reference", "triton"):
        with ExitStack() as stack:
            for op in ops:
                stack.enter_context(registry.override(op, backend))
            results.append(call())
    expect(name, relative_error(results[1], results[0]), bound)


def with_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], Tensor]:
    """Result and gradients in one vector."""

    def call() -> Tensor:
        leaves = [t.detach().clone().requires_grad_() for t in inputs]
        y = function(*leaves)
        y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape))
        return torch.cat([y.flatten(), *(t.grad.flatten() for t in leaves)])

    return call
