"""Files that are whole or not there: written aside, forced to disk, renamed into place."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["clear_leftovers", "durable_folder", "remove_folder", "sha256_of", "write_durably"]

ASIDE = ".aside-"
"""Names that start so are of work under way; what a kill leaves of them is worth nothing."""


def write_durably(path: Path, text: str) -> None:
    """Replace a small file: readers see the old or the new one, also after a power loss."""
    aside = path.with_name(ASIDE + path.name)
    try:
        aside.write_text(text, encoding="utf-8")
        _sync(aside)
        aside.replace(path)
        _sync(path.parent)
    except Exception:
        aside.unlink(missing_ok=True)
        raise


@contextmanager
def durable_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; on leaving it takes the name ``path``, on an error it goes away.

    An existing folder of that name gives way only once the new one is on the disk.
    """
    aside = path.with_name(ASIDE + path.name)
    remove_folder(aside)
    aside.mkdir(parents=True)
    try:
        yield aside
        for file in sorted(aside.iterdir()):
            _sync(file)
        _sync(aside)
        if path.exists():
            remove_folder(path)
        aside.rename(path)
        _sync(path.parent)
    except Exception:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def remove_folder(path: Path) -> None:
    """Delete a folder; a kill on the way leaves no half of it under its own name."""
    if not path.name.startswith(ASIDE) and path.exists():
        gone = path.with_name(f"{ASIDE}gone-{path.name}")
        shutil.rmtree(gone, ignore_errors=True)
        path = path.rename(gone)
    if path.exists():
        shutil.rmtree(path)


def clear_leftovers(folder: Path) -> None:
    """Remove what a kill left of work under way."""
    for path in folder.glob(ASIDE + "*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Force a file's bytes, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
