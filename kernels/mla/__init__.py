"""Multi-head latent attention: its rotary embedding."""

from .op import apply_rope, rotate_heads

__all__ = ["apply_rope", "rotate_heads"]
