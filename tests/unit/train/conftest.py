"""The tiny run of ``tiny.py`` for every test here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """``tiny.py`` as a module."""
    path = Path(__file__).with_name("tiny.py")
    spec = importlib.util.spec_from_file_location("penstock_tests_tiny", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Sums are cut by thread, so bits are the same only for the same number of threads."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _memory_data(tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.use_memory_dataset(monkeypatch)
