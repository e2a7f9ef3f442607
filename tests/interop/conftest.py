"""Reference models of transformers, kept beside the checkout and absent from a user's clone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def references(shared: Path) -> Path:
    folder = shared / "reference" / "hf_deepseek_v3"
    if not folder.is_dir():
        pytest.skip(f"no reference models at {folder}")
    return folder
