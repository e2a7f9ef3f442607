"""Small texts that show how a tokenizer treats numbers and the indentation of code."""

from __future__ import annotations

import random

from penstock.tokenizer import Tokenizer

__all__ = ["CODE", "NUMBERS", "indent_tokens", "number_tokens"]

NUMBERS = "In 2026: 7, 42, 1234, 98765, 1234567; 3.14159, 1,234,567.89, 1e-6, 0x1F"
CODE = (
    "def mean(xs):\n    total = 0.0\n    for x in xs:\n        if x is not None:\n            total += x\n"
    "    return total / len(xs)\n\nif (n) {\n\treturn n;\n\t\tbreak;\n}\n"
)
MAX_DIGITS = 9
NUMBERS_A_LENGTH = 200
INDENTS = {
    **{f"{n} spaces": " " * n for n in (2, 4, 8, 12, 16, 20, 24)},
    **{f"{n} tab{'s' if n > 1 else ''}": "\t" * n for n in (1, 2, 3, 4)},
}


def number_tokens(tokenizer: Tokenizer) -> tuple[float, ...]:
    """Mean tokens of random numbers of 1 to 9 digits, always the same numbers."""
    rng = random.Random(0)
    means = []
    for digits in range(1, MAX_DIGITS + 1):
        low, high = 10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1
        texts = [str(rng.randint(low, high)) for _ in range(NUMBERS_A_LENGTH)]
        means.append(len(tokenizer.encode_batch(texts).ids) / len(texts))
    return tuple(means)


def indent_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Tokens that each indentation adds to a line, by its name."""
    plain = tokenizer.count_tokens("if x:\nreturn")
    return {
        name: tokenizer.count_tokens(f"if x:\n{indent}return") - plain for name, indent in INDENTS.items()
    }
