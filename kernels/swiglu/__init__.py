"""SwiGLU."""

from .op import swiglu

__all__ = ["swiglu"]
