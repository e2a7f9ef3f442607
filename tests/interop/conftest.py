"""Reference models of transformers, kept beside the checkout and absent from a user's clone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SHARED = Path(os.environ.get("PENSTOCK_SHARED", Path(__file__).resolve().parents[3] / "shared"))
REFERENCES = SHARED / "reference" / "hf_deepseek_v3"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def references() -> Path:
    if not REFERENCES.is_dir():
        pytest.skip(f"{REFERENCES} is not there; set PENSTOCK_SHARED to the development data")
    return REFERENCES
