"""Causal attention within documents."""

from .op import attention

__all__ = ["attention"]
