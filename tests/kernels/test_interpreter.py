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


@pytest.mark.parametrize(("script", "least"), [("interpreted_fp8.py", 120), ("interpreted_rest.py", 38)])
def test_kernels_agree_with_their_references_in_the_interpreter(script: str, least: int) -> None:
    """In a process of its own: Triton reads TRITON_INTERPRET once, when a kernel is defined."""
    pytest.importorskip("triton")
    version = tuple(int(part) for part in importlib.metadata.version("triton").split(".")[:2])
    if version < (3, 7):
        pytest.skip("the interpreter of triton before 3.7 fails on loop bounds that are tensors")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    path = Path(__file__).with_name(script)
    done = subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("agrees") >= least, done.stdout
