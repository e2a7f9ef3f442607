"""Models of other programs, read and written."""

from __future__ import annotations

from penstock.interop.hf import load_hf, save_hf

__all__ = ["load_hf", "save_hf"]
