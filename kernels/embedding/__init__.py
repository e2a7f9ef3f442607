"""Token embeddings."""

from .op import embedding

__all__ = ["embedding"]
