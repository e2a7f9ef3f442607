"""From TOML values to typed dataclass fields, with errors that name the key and the nearest known one."""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from penstock.errors import ConfigError

__all__ = ["build_section", "check_least", "parse_override", "recipe_keys"]


def build_section(cls: type, values: Mapping[str, Any], origin: str, path: str) -> Any:
    """An instance of the dataclass ``cls`` from TOML ``values``; ``path`` is where they stand."""
    hints = get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            raise ConfigError(f"{origin}: unknown key {_join(path, key)!r}{_suggest(key, known, path)}")
    return cls(**{k: _coerce(hints[k], v, origin, _join(path, k)) for k, v in values.items()})


def recipe_keys(cls: type, path: str = "") -> list[str]:
    """Every key a recipe may have, dotted, in order."""
    keys: list[str] = []
    for name, hint in get_type_hints(cls).items():
        nested = [a for a in (hint, *get_args(hint)) if dataclasses.is_dataclass(a)]
        if nested:
            keys += recipe_keys(nested[0], _join(path, name))  # type: ignore[arg-type]
        else:
            keys.append(_join(path, name))
    return keys


def parse_override(text: str) -> tuple[list[str], Any]:
    """``section.key=value`` as its keys and a TOML value; what is no TOML value is a string."""
    name, equals, raw = text.partition("=")
    keys = [k.strip() for k in name.split(".")]
    if not equals or len(keys) < 2 or not all(keys):
        raise ConfigError(f"--set {text}: expected section.key=value, such as optimizer.lr=3e-4")
    try:
        return keys, tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return keys, raw


def check_least(section: str, values: object, **least: float) -> None:
    """Refuse numbers below their least, and those that are none, naming the key; None is left out."""
    for name, bound in least.items():
        value = getattr(values, name)
        if value is not None and not bound <= value < math.inf:
            finite = "" if math.isfinite(value) else " and finite"
            raise ConfigError(f"{section}.{name}={value} must be at least {bound}{finite}")


def _coerce(hint: Any, value: Any, origin: str, path: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{origin}: {path} must be a section, not {_shown(value)}")
        return build_section(hint, value, origin, path)  # type: ignore[arg-type]
    kind = get_origin(hint)
    if kind in (Union, types.UnionType):
        return _coerce(next(a for a in get_args(hint) if a is not type(None)), value, origin, path)
    if kind is Literal:
        if value not in get_args(hint):
            choices = ", ".join(str(a) for a in get_args(hint))
            raise ConfigError(f"{origin}: {path} = {_shown(value)}, expected one of {choices}")
        return value
    if kind is tuple:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list):
            raise ConfigError(f"{origin}: {path} must be a list, not {_shown(value)}")
        return tuple(_coerce(get_args(hint)[0], item, origin, path) for item in items)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{origin}: {path} = {_shown(value)}, expected {hint.__name__}")
    return value


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _shown(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"


def _suggest(key: str, known: list[str], path: str) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {_join(path, near[0])!r}?"
    return f"; known here: {', '.join(known)}"
