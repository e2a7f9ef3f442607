"""``penstock doctor``: whether this machine has what penstock needs."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from penstock.cli.outcome import JsonFlag, emit, guarded

__all__ = ["doctor", "find_faults"]

EXTRAS = {
    "train": ("torch", "safetensors", "matplotlib", "tensorboard"),
    "arrow": ("pyarrow",),
}
FP8_CAPABILITY = (9, 0)


@guarded
def doctor(as_json: JsonFlag = False) -> None:
    """Versions, GPU, FP8 support, disk, and what is missing with how to get it.

    Example: penstock doctor
    """
    from penstock.cli.table import two_columns

    facts = find_faults()
    emit(facts, as_json, lambda: two_columns(facts))


def find_faults() -> dict[str, Any]:
    """What is there, and under ``advice`` what to do about what is not."""
    from penstock.report import track

    advice: list[str] = []
    facts: dict[str, Any] = {
        "versions": track.versions(),
        "machine": track.machine(),
        "extension": _extension(advice),
        "extras": _extras(advice),
        "training": _training(advice),
        "disk free here": _disk_free(),
    }
    facts["advice"] = advice or ["nothing is missing"]
    return facts


def _extension(advice: list[str]) -> str:
    try:
        from penstock import _core  # noqa: F401
    except ImportError as error:
        advice.append("the Rust extension does not load: pip install --force-reinstall penstock")
        return f"does not load: {error}"
    return "loads"


def _extras(advice: list[str]) -> dict[str, str]:
    found = {}
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        found[extra] = f"missing {', '.join(missing)}" if missing else "installed"
        if missing:
            advice.append(f"for {', '.join(missing)}: pip install 'penstock[{extra}]'")
    return found


def _training(advice: list[str]) -> dict[str, Any]:
    """What torch sees; importing it takes seconds, which only this command pays."""
    if importlib.util.find_spec("torch") is None:
        return {"device": "none: torch is not installed"}
    import torch

    from penstock.report import track

    if not torch.cuda.is_available():
        if track.gpu_name():
            advice.append(
                "nvidia-smi lists a GPU but torch cannot use it: install a torch build for its driver "
                f"(this one is for CUDA {torch.version.cuda})"
            )
        return {"device": "cpu", "fp8": False, "precision auto": "fp32"}
    capability = torch.cuda.get_device_capability()
    fp8 = capability >= FP8_CAPABILITY
    if not fp8:
        advice.append("FP8 needs compute capability 9.0 or later (H100, H200): train.precision = 'bf16'")
    return {
        "device": torch.cuda.get_device_name(),
        "compute capability": f"{capability[0]}.{capability[1]}",
        "memory GiB": round(torch.cuda.get_device_properties(0).total_memory / 2**30),
        "CUDA": torch.version.cuda,
        "fp8": fp8,
        "precision auto": "fp8" if fp8 else "bf16",
    }


def _disk_free() -> str:
    from penstock.report.quantities import show_bytes

    return show_bytes(shutil.disk_usage(Path.cwd()).free)
