"""Whole feed-forward layers: in FP8, what one product writes is what the next one reads."""

from .dense import feed_forward
from .experts import expert_feed_forward

__all__ = ["expert_feed_forward", "feed_forward"]
