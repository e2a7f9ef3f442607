"""Text that every machine with Python has: the standard library's own sources and documents.

The order is fixed by the names, and modules that hold tables or tests are left out, so that two machines
with the same Python give the same corpus.
"""

from __future__ import annotations

import hashlib
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from penstock.pipelines.documents import Document

__all__ = ["machine_text"]

LEFT_OUT = {
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "encodings",
    "lib2to3",
}
LONGEST_FILE_BYTES = 400_000
"""Longer ones are generated tables."""


def machine_text() -> Iterator[Document]:
    """Documents labelled ``python-code`` (a file each) and ``python-docs`` (a help topic or text file each).

    They come in an order that is arbitrary but fixed: by hash of the id, so that a cut after some bytes
    keeps the mixture.
    """
    root = Path(sysconfig.get_path("stdlib"))
    named = [(f"python-code:{p.relative_to(root).as_posix()}", p) for p in _files(root, ".py")]
    named += [(f"python-docs:{p.relative_to(root).as_posix()}", p) for p in _files(root, ".txt")]
    topics = _help_topics()
    names = [name for name, _ in named] + list(topics)
    paths = dict(named)
    for name in sorted(names, key=lambda n: hashlib.sha256(n.encode()).digest()):
        text = topics[name] if name in topics else _read(paths[name])
        if text:
            yield Document(text=text, source=name.partition(":")[0], id=name)


def _files(root: Path, suffix: str) -> list[Path]:
    return [
        path
        for path in sorted(root.rglob(f"*{suffix}"))
        if not LEFT_OUT & set(path.relative_to(root).parts)
        and path.is_file()
        and 0 < path.stat().st_size <= LONGEST_FILE_BYTES
        and path.relative_to(root).as_posix() != "pydoc_data/topics.py"
    ]


def _read(path: Path) -> str:
    """The file's text; empty where it is not UTF-8, as a few old sources are."""
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _help_topics() -> dict[str, str]:
    """The pages behind ``help('for')``."""
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return {}
    return {f"python-docs:topics/{name}": re.sub(r"[ \t]+\n", "\n", page) for name, page in topics.items()}
