"""Every test here trains ``tiny_training``'s model on its dataset in memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
import tiny_training as tiny


@pytest.fixture(autouse=True)
def _memory_data(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.use_memory_dataset(monkeypatch)
