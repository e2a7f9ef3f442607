"""Rows to their experts and back."""

from .op import combine, permute, permute_rows

__all__ = ["combine", "permute", "permute_rows"]
