"""Kernel tests need torch and triton and nothing else of penstock.

Where the package is not installed (a bare checkout on a GPU machine), ``penstock`` becomes an empty package
over ``python/penstock``, so that ``penstock.kernels`` is found there and no compiled core is asked for.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

if importlib.util.find_spec("penstock") is None:
    package = ModuleType("penstock")
    package.__path__ = [str(ROOT / "python" / "penstock")]
    sys.modules["penstock"] = package

sys.path.append(str(Path(__file__).parent))  # for what tests here share
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA GPU, and torch sees none")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def needs_the_backend(request: pytest.FixtureRequest) -> None:
    from penstock.kernels import registry  # found only now

    capability = registry.capability()
    if capability is None or capability < (8, 9):
        pytest.skip(f"FP8 needs compute capability 8.9, this GPU has {capability}")
    backend = request.getfixturevalue("backend") if "backend" in request.fixturenames else ""
    if backend in ("gluon", "torch") and capability[0] != 9:
        pytest.skip(f"{backend} needs Hopper (9.x), this GPU has {capability}")
