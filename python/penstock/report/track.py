"""What a run ran on: versions, machine, source revision. Enough to tell two runs apart, or to repeat one."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import penstock

__all__ = ["cpu_name", "gpu_name", "machine", "source_revision", "versions"]

PACKAGES = ("numpy", "torch", "triton", "safetensors", "matplotlib", "pyarrow")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide a result; those not installed are left out."""
    found = {"penstock": penstock.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str]:
    """Processor, cores, memory, GPU and system."""
    facts = {
        "processor": cpu_name(),
        "cores": str(_usable_cores()),
        "system": f"{platform.system()} {platform.release()}",
    }
    memory_bytes = _memory_bytes()
    if memory_bytes:
        facts["memory"] = f"{memory_bytes / 2**30:.0f} GiB"
    gpu = gpu_name()
    facts["GPU"] = gpu or "none"
    return facts


def cpu_name() -> str:
    """As the kernel names it, or the architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def gpu_name() -> str | None:
    """The first GPU; asks the driver, not torch, so that no import takes seconds."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    try:
        query = [command, "--query-gpu=name", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    names = answer.stdout.split("\n")
    return names[0].strip() or None


def source_revision() -> str | None:
    """The git commit of the checkout that this package is imported from; None for an installed wheel."""
    folder = Path(__file__).resolve().parent
    git = shutil.which("git")
    if git is None or not any((parent / ".git").exists() for parent in folder.parents[:4]):
        return None
    try:
        command = [git, "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _usable_cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0
