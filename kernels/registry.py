"""Which implementation an op uses on a device. This table is the only dispatch there is.

Backends, fastest first: ``gluon`` (Hopper), ``triton`` (plain Triton), ``torch`` (a library behind PyTorch)
and ``reference`` (plain PyTorch operations, any device: the definition of correct).

An override beats the table: ``override("gemm", "reference")`` for a block of code, or for a whole process the
environment variable ``PENSTOCK_KERNELS="gemm=reference,quantize=triton"``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

ENVIRONMENT = "PENSTOCK_KERNELS"

RECIPES = ("shift", "v3")
RECIPE_ENVIRONMENT = "PENSTOCK_FP8_RECIPE"

Capability = tuple[int, int]

_ANY: Capability = (0, 0)
_AMPERE: Capability = (8, 0)
_ADA: Capability = (8, 9)
"""The first generation that converts to float8_e4m3fn in hardware."""
_HOPPER: Capability = (9, 0)

_SHARED_MEMORY_KIB = {(8, 0): 163, (8, 7): 163, (9, 0): 227, (10, 0): 227, (10, 3): 227}

# op -> backends in the order of preference, each with the lowest capability it runs on: see `_runs`.
_TABLE: dict[str, tuple[tuple[str, Capability], ...]] = {
    "quantize": (("triton", _ADA),),
    "quantize_both": (("gluon", _HOPPER), ("triton", _ADA)),
    "transpose_shift": (("gluon", _HOPPER), ("triton", _ADA)),
    "gemm": (("gluon", _HOPPER), ("triton", _ADA), ("torch", _HOPPER)),
    "wgrad": (("gluon", _HOPPER), ("triton", _ADA), ("torch", _HOPPER)),
    "grouped_gemm": (("gluon", _HOPPER), ("triton", _ADA)),
    "grouped_wgrad": (("gluon", _HOPPER), ("triton", _ADA)),
    "grouped_mm": (("torch", _HOPPER),),
    "embedding": (("triton", _ANY),),
    "norm": (("gluon", _HOPPER), ("triton", _ANY)),
    "rope": (("triton", _ANY),),
    "swiglu": (("triton", _ANY),),
    "swiglu_quantize": (("gluon", _HOPPER), ("triton", _ADA)),
    "router_logits": (("triton", _AMPERE),),
    "route": (("triton", _ANY),),
    "route_tables": (("triton", _ANY),),
    "balance_loss": (("triton", _ANY),),
    "permute": (("triton", _ANY),),
    "attention": (("torch", _ANY),),
    "latent_attention": (("gluon", _HOPPER), ("triton", _AMPERE)),
    "cross_entropy": (("triton", _ANY),),
    "adamw": (("gluon", _HOPPER), ("triton", _ANY)),
    "gradient_norm": (("triton", _ANY),),
}

_OF_ONE_GENERATION = (("gemm", "torch"), ("wgrad", "torch"))
"""Beside all Gluon kernels: the library takes scales of 128 elements on Hopper and on nothing later."""

_overrides: dict[str, str] = {}


def capability(device: torch.device | None = None) -> Capability | None:
    """The CUDA compute capability of ``device`` (default: the current one), None without CUDA."""
    return _capability(device) if torch.compiler.is_compiling() else _cached_capability(device)


def _capability(device: torch.device | None) -> Capability | None:
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return major, minor


_cached_capability = cache(_capability)


@cache
def multiprocessors(device: torch.device) -> int:
    """Of a GPU; 1 for a CPU, where kernels run in Triton's interpreter."""
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def shared_memory_bytes(device: torch.device) -> int:
    """What one program may use of a GPU; 0 for a CPU, where kernels run in Triton's interpreter."""
    if device.type != "cuda":
        return 0
    properties: Any = torch.cuda.get_device_properties(device)  # its stub lacks this
    return int(properties.shared_memory_per_block_optin)


def most_shared_memory_bytes(found: Capability) -> int:
    """What one program may use on GPUs of a capability; also where a compiler traces."""
    return _SHARED_MEMORY_KIB.get(found, 99) << 10


def ops() -> tuple[str, ...]:
    """The names that ``backend`` and ``override`` know."""
    return tuple(_TABLE)


def backend(op: str, device: torch.device | None = None, dtype: torch.dtype | None = None) -> str:
    """The backend ``op`` uses for tensors of ``dtype`` on ``device`` (default: CUDA where there is one, else
    the CPU).

    Kernels compute in float32, so float64 always gets the reference.

    Raises
    ------
    ValueError
        The op, or a name in ``PENSTOCK_KERNELS``, is unknown, or an override names a backend that the device
        cannot run.
    """
    _check(op)
    if dtype == torch.float64:
        return "torch" if op == "attention" else "reference"
    on_cuda = torch.cuda.is_available() if device is None else device.type == "cuda"
    found = capability(device) if on_cuda else None
    forced = _overrides.get(op) or _wanted(os.environ.get(ENVIRONMENT, "")).get(op)
    if forced is not None:
        if device is not None and device.type == "cpu":
            _check_runs_on_cpu(op, forced)
        _check_runs(op, forced, found)
        return forced
    return _fastest(op, found) if on_cuda else _on_cpu(op)


def wgrad_recipe() -> str:
    """How FP8 layers quantise operands of the weight gradient: "shift", or what ``PENSTOCK_FP8_RECIPE`` says.

    "shift" transposes the bytes at hand; "v3" casts again along the tokens, as DeepSeek-V3 did
    (docs/numerics.md).

    Raises
    ------
    ValueError
        The variable names no recipe.
    """
    recipe = os.environ.get(RECIPE_ENVIRONMENT, RECIPES[0])
    if recipe not in RECIPES:
        raise ValueError(f"{RECIPE_ENVIRONMENT}: expected one of {', '.join(RECIPES)}, got {recipe!r}")
    return recipe


@contextmanager
def override(op: str, backend_name: str) -> Iterator[None]:
    """Let ``op`` use ``backend_name`` inside a ``with`` block, on every device and thread.

    Raises
    ------
    ValueError
        The op or the backend is unknown.
    """
    _check(op, backend_name)
    before = _overrides.get(op)
    _overrides[op] = backend_name
    try:
        yield
    finally:
        if before is None:
            del _overrides[op]
        else:
            _overrides[op] = before


def _is_of_one_generation(op: str, name: str) -> bool:
    return name == "gluon" or (op, name) in _OF_ONE_GENERATION


def _runs(op: str, name: str, lowest: Capability, found: Capability) -> bool:
    return found[0] == lowest[0] if _is_of_one_generation(op, name) else found >= lowest


def _fastest(op: str, found: Capability | None) -> str:
    return next((name for name, low in _TABLE[op] if found and _runs(op, name, low, found)), "reference")


def _check_runs(op: str, name: str, found: Capability | None) -> None:
    lowest = dict(_TABLE[op]).get(name, _ANY)
    if found and not _runs(op, name, lowest, found):
        one = _is_of_one_generation(op, name)
        needed = f"capability {lowest[0]}.x" if one else "capability {}.{} or more".format(*lowest)
        raise ValueError(
            f"{op}: backend {name} needs a GPU of {needed}, this one has {found[0]}.{found[1]}; "
            f"without an override {_fastest(op, found)} would run"
        )


def _check_runs_on_cpu(op: str, name: str) -> None:
    interpreted = name == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if name not in ("reference", _on_cpu(op)) and not interpreted:
        raise ValueError(
            f"{op}: backend {name} needs a GPU, and these tensors are on the CPU; "
            f"without an override {_on_cpu(op)} would run"
        )


def _on_cpu(op: str) -> str:
    """SDPA has a CPU kernel; everything else falls to the reference."""
    return "torch" if op == "attention" else "reference"


def _wanted(text: str) -> dict[str, str]:
    # The compiler sees through no cache, and reads the text once.
    return _environment(text) if torch.compiler.is_compiling() else _cached_environment(text)


def _environment(text: str) -> dict[str, str]:
    wanted: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        op, equals, name = item.partition("=")
        if not equals:
            raise ValueError(f"{ENVIRONMENT}: {item!r} is not of the form op=backend, as in gemm=reference")
        _check(op, name)
        wanted[op] = name
    return wanted


_cached_environment = cache(_environment)


def _check(op: str, name: str = "reference") -> None:
    if op not in _TABLE:
        raise ValueError(f"unknown op {op!r}: expected one of {', '.join(_TABLE)}")
    if name != "reference" and name not in dict(_TABLE[op]):
        known = ", ".join(dict(_TABLE[op]))
        raise ValueError(f"unknown backend {name!r} for {op}: expected {known} or reference")
