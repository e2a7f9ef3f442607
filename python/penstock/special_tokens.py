"""Which special tokens a text may name: ``allowed_special`` and ``disallowed_special``, as in tiktoken."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Literal, NoReturn

from penstock.errors import ConfigError, TokenizerError

__all__ = ["AllowedSpecial", "allowed_names", "refuse_named"]

AllowedSpecial = Literal["all"] | Collection[str]


def allowed_names(allowed: AllowedSpecial) -> list[str] | None:
    """None for all, else the list.

    Raises
    ------
    ConfigError
        ``allowed`` is a single name.
    """
    if allowed == "all":
        return None
    if isinstance(allowed, str):
        _refuse_name("allowed_special", allowed)
    return list(allowed)


def _refuse_name(argument: str, name: str) -> NoReturn:
    raise ConfigError(f"{argument}={name!r}: expected 'all' or a collection of tokens, such as {{{name!r}}}")


def refuse_named(
    texts: Iterable[str], special: Iterable[str], allowed: AllowedSpecial, disallowed: AllowedSpecial
) -> None:
    """Refuse texts that name a token of ``disallowed``; "all" is those that ``allowed`` leaves out.

    Raises
    ------
    TokenizerError
        The message names the text, the character and the token.
    ConfigError
        ``disallowed`` is a single name.
    """
    if disallowed == "all":
        disallowed = () if allowed == "all" else set(special) - set(allowed)
    elif isinstance(disallowed, str):
        _refuse_name("disallowed_special", disallowed)
    # The longest first, so that a token is named and not its beginning.
    names = sorted(filter(None, disallowed), key=len, reverse=True)
    expression = re.compile("|".join(map(re.escape, names)) or r"(?!)")
    for i, text in enumerate(texts):
        if found := expression.search(text):
            place = f"text {i}, character {found.start()}"
            raise TokenizerError(
                f"{place}: the text holds {found.group()!r}, which disallowed_special refuses; "
                "allowed_special makes it a control token, and without either it is ordinary text"
            )
