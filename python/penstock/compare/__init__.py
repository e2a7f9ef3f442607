"""Tokenizers side by side on a corpus: what they make of it, and what of their vocabulary it uses."""

from __future__ import annotations

from penstock.compare.figures import Comparison, TokenizerFigures
from penstock.compare.measure import compare_tokenizers
from penstock.compare.subjects import Subject, load_subjects

__all__ = ["Comparison", "Subject", "TokenizerFigures", "compare_tokenizers", "load_subjects"]
