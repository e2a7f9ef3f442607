"""Multi-head latent attention: its rotary embedding."""

from .op import apply_rope

__all__ = ["apply_rope"]
