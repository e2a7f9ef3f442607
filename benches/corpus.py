"""Texts of a corpus file. Standard library only: peers read it with a Python of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def texts_of(path: Path) -> Iterator[str]:
    """The documents of a .jsonl or .jsonl.zst file."""
    return (text for _, text in sourced_texts_of(path))


def first_texts_of(path: Path, limit_bytes: int) -> list[str]:
    """Documents until so many bytes of text are read."""
    texts: list[str] = []
    size = 0
    for text in texts_of(path):
        texts.append(text)
        size += len(text.encode())
        if size >= limit_bytes:
            break
    return texts


def sourced_texts_of(path: Path) -> Iterator[tuple[str, str]]:
    """The same with the source of each, empty where it names none."""
    if path.suffix == ".zst":
        import zstandard

        lines: Any = zstandard.open(path, "rt", encoding="utf-8")
    else:
        lines = path.open(encoding="utf-8")
    with lines:
        for line in lines:
            document = json.loads(line)
            yield str(document.get("source") or ""), document["text"]
