"""RMSNorm."""

from .op import add_rms_norm, add_rms_norm_quantize, rms_norm

__all__ = ["add_rms_norm", "add_rms_norm_quantize", "rms_norm"]
