"""Models and tokenizers of other programs, read and written.

Names are loaded on first use: tokenizers need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.interop.hf import load_hf, save_hf
    from penstock.interop.tiktoken_encoding import to_tiktoken
    from penstock.interop.tokenizer_files import convert_tokenizer, save_tokenizer

__all__ = ["convert_tokenizer", "load_hf", "save_hf", "save_tokenizer", "to_tiktoken"]

_HOMES = {
    "convert_tokenizer": "tokenizer_files",
    "load_hf": "hf",
    "save_hf": "hf",
    "save_tokenizer": "tokenizer_files",
    "to_tiktoken": "tiktoken_encoding",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"penstock.interop.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'penstock.interop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
