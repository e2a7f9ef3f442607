"""Dense products: the FP8 ops, and the linear layer made of them."""

from .linear import joint_linear, linear
from .op import gemm, wgrad, wgrads
from .weights import accumulate_in_place, copy_to_update, mark_updated, quantized_weight, refresh_copies

__all__ = [
    "accumulate_in_place",
    "copy_to_update",
    "gemm",
    "joint_linear",
    "linear",
    "mark_updated",
    "quantized_weight",
    "refresh_copies",
    "wgrad",
    "wgrads",
]
