"""Casts to FP8 and back."""

from .op import (
    dequantize,
    quantize_both,
    quantize_rows,
    quantize_tokens,
    quantize_weight,
    transpose_shift,
)

__all__ = [
    "dequantize",
    "quantize_both",
    "quantize_rows",
    "quantize_tokens",
    "quantize_weight",
    "transpose_shift",
]
