"""Plain Triton kernels in Triton's interpreter, on a CPU: indexing, masks, sums and bytes against the
references.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("interpreted.py")


def test_kernels_agree_with_their_references_in_the_interpreter() -> None:
    """In a process of its own: Triton reads TRITON_INTERPRET once, when a kernel is defined."""
    pytest.importorskip("triton")
    version = tuple(int(part) for part in importlib.metadata.version("triton").split(".")[:2])
    if version < (3, 7):
        pytest.skip("the interpreter of triton before 3.7 fails on loop bounds that are tensors")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agrees") >= 20, done.stdout
