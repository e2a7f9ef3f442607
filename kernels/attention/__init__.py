"""Causal attention within documents."""

from .documents import Documents, find_documents
from .latent import latent_attention
from .op import attention

__all__ = ["Documents", "attention", "find_documents", "latent_attention"]
