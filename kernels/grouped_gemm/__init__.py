"""Products of experts: the FP8 ops, and the linear layer made of them."""

from .linear import grouped_linear
from .op import grouped_gemm, grouped_wgrad

__all__ = ["grouped_gemm", "grouped_linear", "grouped_wgrad"]
