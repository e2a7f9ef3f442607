"""A text file that appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from penstock.errors import ConfigError

__all__ = ["write_text"]


def write_text(path: Path, text: str) -> None:
    """Write through a neighbour that is renamed once it is safely on disk; folders are made.

    Raises
    ------
    ConfigError
        The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).chmod(0o644)
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except (OSError, UnicodeEncodeError) as error:
        raise ConfigError(f"{path}: cannot be written: {error}") from error
