"""Benchmarks that stay in the project start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHES = Path(__file__).parents[3] / "benches"
PROGRAMS = sorted(path.name for path in BENCHES.glob("*.py") if "ArgumentParser" in path.read_text())


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_bench_says_what_it_takes(name: str) -> None:
    done = subprocess.run([sys.executable, BENCHES / name, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


def test_every_bench_is_found() -> None:
    assert {"encode.py", "decode.py", "data.py", "training.py", "instructions.py"} <= set(PROGRAMS)
