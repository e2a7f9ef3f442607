"""FP8 weights as DeepSeek publishes them: e4m3 bytes and one FP32 multiplier for each 128 x 128 block.

The multiplier is stored as ``<name>_scale_inv`` although values are bytes *times* it. Blocks at the right
and lower edge are cut, and block borders always stand at multiples of 128: a weight of 576 rows has
blocks of 128, 128, 128, 128 and 64 rows. Deriving the block from rows / scale rows (115.2 there) is a
known defect of other loaders.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BLOCK", "SCALE_SUFFIX", "dequantise", "is_quantised_on_disk", "quantise", "scale_shape"]

BLOCK = 128
SCALE_SUFFIX = "_scale_inv"
E4M3_MAX = 448.0


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
    """Bytes and multipliers of a weight ``[rows, columns]``, each block's largest value at 448."""
    (rows, columns), (down, across) = weight.shape, scale_shape(tuple(weight.shape))
    padded = torch.zeros(down * BLOCK, across * BLOCK, dtype=torch.float32, device=weight.device)
    padded[:rows, :columns] = weight
    blocks = padded.view(down, BLOCK, across, BLOCK)
    scale = blocks.abs().amax((1, 3)).clamp(min=1e-12) / E4M3_MAX
    scaled = (blocks / scale[:, None, :, None]).clamp(-E4M3_MAX, E4M3_MAX).view(padded.shape)
    return scaled[:rows, :columns].to(torch.float8_e4m3fn).contiguous(), scale
