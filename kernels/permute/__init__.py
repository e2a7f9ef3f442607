"""Rows to their experts and back."""

from .op import combine, permute

__all__ = ["combine", "permute"]
