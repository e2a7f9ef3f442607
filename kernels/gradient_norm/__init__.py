"""The norm of all gradients, by which they are clipped."""

from .op import gradient_norm

__all__ = ["gradient_norm"]
