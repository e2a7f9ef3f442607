"""What tests share: development data beside the checkout, a corpus that every machine has."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("PENSTOCK_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The development data: foreign vectors, vocabularies, a corpus. A user's clone has none."""
    if not SHARED.is_dir():
        pytest.skip(f"no development data at {SHARED} (set PENSTOCK_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def stdlib_texts() -> list[str]:
    """The standard library's own sources, about 2 MB: text and code that every machine has."""
    texts: list[str] = []
    size = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        texts.append(text)
        size += len(text)
        if size > 2_000_000:
            break
    return texts
