"""SwiGLU, by itself and between FP8 products."""

from .op import swiglu
from .quantized import swiglu_backward_quantize, swiglu_quantize

__all__ = ["swiglu", "swiglu_backward_quantize", "swiglu_quantize"]
