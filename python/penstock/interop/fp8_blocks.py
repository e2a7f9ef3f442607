"""FP8 weights as DeepSeek publishes them: e4m3 bytes and one FP32 multiplier for each 128 x 128 block.

The multiplier is stored as ``<name>_scale_inv`` although values are bytes *times* it. Blocks at the right
and lower edge are cut, and block borders always stand at multiples of 128: a weight of 576 rows has
blocks of 128, 128, 128, 128 and 64 rows. Deriving the block from rows / scale rows (115.2 there) is a
known defect of other loaders.
"""

from __future__ import annotations

from torch import Tensor

from penstock.kernels.quantize import quantize_weight

__all__ = ["BLOCK", "SCALE_SUFFIX", "dequantise", "is_quantised_on_disk", "quantise", "scale_shape"]

BLOCK = 128
SCALE_SUFFIX = "_scale_inv"


def is_quantised_on_disk(name: str) -> bool:
    """Whether the published layout holds a tensor in FP8: projections of attention and experts.

    Embedding, head, norms, router, bias and the joint of multi-token prediction are not.
    """
    return name.endswith(("_proj.weight", "_proj_with_mqa.weight")) and not name.endswith("eh_proj.weight")


def scale_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Blocks of a weight ``[rows, columns]``."""
    rows, columns = shape
    return -(-rows // BLOCK), -(-columns // BLOCK)


def dequantise(data: Tensor, scale: Tensor) -> Tensor:
    """The FP32 values of a weight.

    Parameters
    ----------
    data
        float8_e4m3fn ``[rows, columns]``.
    scale
        FP32 ``scale_shape(data.shape)``.
    """
    rows, columns = data.shape
    spread = scale.float().repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    return data.float() * spread


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes and multipliers of a weight ``[rows, columns]``: those that training in FP8 multiplies with.

    The multipliers are powers of two, so what is served is what was trained, to the bit.
    """
    quantised = quantize_weight(weight)
    return quantised.data, quantised.scale
