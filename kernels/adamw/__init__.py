"""AdamW."""

from .op import adamw_step

__all__ = ["adamw_step"]
