"""Which device and precision a recipe means on this machine, and what the GPU could do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from penstock.errors import HardwareError

__all__ = ["deterministic_algorithms", "peak_flops_per_s", "resolve_device", "resolve_precision"]

FP8_CAPABILITY = (9, 0)
BF16_CAPABILITY = (8, 0)
DENSE_BF16_FLOPS_PER_S = {"H100": 989e12, "H200": 989e12}
"""The yardstick of MFU, for FP8 runs too: NVIDIA's dense BF16 figure of the SXM cards."""


def resolve_device(wanted: str) -> torch.device:
    """Of auto, cpu and cuda; ``auto`` is the GPU where there is one.

    Raises
    ------
    HardwareError
        ``cuda`` was asked for and torch sees no GPU, or the name is none of these.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise HardwareError(f"device {wanted!r}: expected auto, cpu or cuda")
    if wanted == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if wanted == "cuda":
        raise HardwareError(
            "train.device = 'cuda' (--device), but torch sees no GPU: look at nvidia-smi and at "
            "torch.version.cuda, or set train.device to 'auto' or 'cpu'"
        )
    return torch.device("cpu")


def resolve_precision(
    wanted: Literal["auto", "fp32", "bf16", "fp8"], device: torch.device
) -> Literal["fp32", "bf16", "fp8"]:
    """``auto`` is fp8 on a GPU that has it, bf16 on other GPUs, fp32 on a CPU.

    Raises
    ------
    HardwareError
        fp8 was asked for where no GPU has it, or the GPU is too old for bf16.
    """
    if device.type == "cpu":
        if wanted == "fp8":
            raise HardwareError(
                "train.precision = 'fp8' needs a GPU of compute capability 9.0 or later (H100, H200), and "
                "training would run on the CPU: set train.precision to 'auto', 'bf16' or 'fp32'"
            )
        return "fp32" if wanted == "auto" else wanted
    capability = torch.cuda.get_device_capability(device)
    found = f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}"
    if wanted == "fp8" and capability < FP8_CAPABILITY:
        raise HardwareError(
            f"train.precision = 'fp8' needs a GPU of compute capability 9.0 or later (H100, H200); {found}: "
            "set train.precision to 'auto' or 'bf16'"
        )
    if wanted in ("auto", "bf16") and capability < BF16_CAPABILITY:
        raise HardwareError(
            f"bf16 needs a GPU of compute capability 8.0 or later; {found}: set train.precision to 'fp32'"
        )
    if wanted == "auto":
        return "fp8" if capability >= FP8_CAPABILITY else "bf16"
    return wanted


def peak_flops_per_s(device: torch.device) -> float | None:
    """Dense BF16 FLOP/s of a known GPU; None for others and for a CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in DENSE_BF16_FLOPS_PER_S.items() if key in name), None)


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Torch's deterministic algorithms where it has them, put back afterwards as they were."""
    if not wanted:
        yield
        return
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    filling = torch.utils.deterministic
    fill = filling.fill_uninitialized_memory  # type: ignore[attr-defined]
    # cuBLAS reads this when its first handle is made; on a CPU it does nothing.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling every fresh buffer costs a pass over memory and hides reads of unwritten ones.
    filling.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        filling.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
