"""Dense products: the FP8 ops, and the linear layer made of them."""

from .linear import joint_linear, linear
from .op import gemm, wgrad, wgrads
from .weights import (
    accumulate_in_place,
    copy_to_update,
    discard_gradients,
    discarded_gradients,
    gradients_came,
    mark_updated,
    quantized_weight,
    refresh_copies,
    zero_discarded_gradients,
)

__all__ = [
    "accumulate_in_place",
    "copy_to_update",
    "discard_gradients",
    "discarded_gradients",
    "gemm",
    "gradients_came",
    "joint_linear",
    "linear",
    "mark_updated",
    "quantized_weight",
    "refresh_copies",
    "wgrad",
    "wgrads",
    "zero_discarded_gradients",
]
