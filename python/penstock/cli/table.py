"""Facts as aligned text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["two_columns"]


def two_columns(facts: Mapping[str, Any]) -> str:
    """One ``name  value`` a line, names padded to one width; nested facts are indented below their name."""
    width = max((len(name) for name, value in facts.items() if not isinstance(value, Mapping)), default=0)
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines.append(name)
            lines += ["  " + line for line in two_columns(value).split("\n")] if value else []
        else:
            lines.append(f"{name:<{width}}  {_shown(value)}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value)
    return str(value)
