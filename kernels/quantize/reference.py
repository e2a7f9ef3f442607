"""Quantisation to E4M3, in plain torch: bytes and scales of a kernel must equal these.

The scale of a tile is the smallest power of two ``s`` with ``amax / s <= 448``, the largest E4M3 number,
found from the bits of amax: 448 is 1.75 * 2**8, so a mantissa above 1.75 needs the next power. Or it is
``amax / 448`` rounded to float32. It is never below 2**-126, the smallest normal float32, whose reciprocal is
still exact; an all-zero tile gets just that, the scale that never outranks another. amax is taken over finite
elements. A byte is its element divided by the scale, rounded to the nearest, ties to even. A NaN or an
infinity becomes the NaN byte 0x7f: it spoils the products it enters and no others.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..types import BLOCK, FP8, RowQ, TokQ, WeightQ

SMALLEST_SCALE = 2.0**-126
LARGEST = 448.0


def power_of_two_scale(amax: Tensor) -> Tensor:
    """The scale of tiles whose largest magnitude is ``amax`` (float32, finite)."""
    exponent = ((amax.view(torch.int32) + 0x1FFFFF) >> 23) - 8
    return (exponent.clamp_min(1) << 23).view(torch.float32)


def exact_scale(amax: Tensor) -> Tensor:
    """The scale that makes 448 of ``amax`` (float32, finite), but for rounding."""
    # By a tensor: a GPU multiplies by the reciprocal of a number.
    return (amax / torch.full_like(amax, LARGEST)).clamp_min(SMALLEST_SCALE)


def _quantize(tiles: Tensor, dims: tuple[int, ...], power_of_two: bool) -> tuple[Tensor, Tensor]:
    """Bytes and scales of float32 ``tiles``, one scale for all elements along ``dims`` (kept as size 1)."""
    finite = tiles.isfinite()
    amax = torch.where(finite, tiles.abs(), 0.0).amax(dims, keepdim=True)
    scale = power_of_two_scale(amax) if power_of_two else exact_scale(amax)
    return torch.where(finite, tiles / scale, torch.nan).to(FP8), scale


def _padded(x: Tensor, *multiples: int) -> Tensor:
    """``x`` with zeros up to a multiple in each of its last dimensions."""
    pads: list[int] = []
    for size, multiple in zip(reversed(x.shape), reversed(multiples), strict=False):
        pads += [0, -size % multiple]
    return F.pad(x, pads)


def _split(x: Tensor, dim: int) -> Tensor:
    """Dimension ``dim`` as blocks of 128."""
    return x.unflatten(dim, (-1, BLOCK))  # type: ignore[no-untyped-call, no-any-return]


def quantize_rows(x: Tensor, power_of_two: bool = True) -> RowQ:
    """See ``op.quantize_rows``."""
    rows, columns = x.shape
    tiles = _split(_padded(x.float(), 4, BLOCK), 1)
    data, scale = _quantize(tiles, (2,), power_of_two)
    return RowQ(data.flatten(1)[:rows, :columns].contiguous(), scale[..., 0].t().contiguous())


def quantize_tokens(x: Tensor, power_of_two: bool = True) -> RowQ:
    """See ``op.quantize_tokens``."""
    return quantize_rows(_padded(x, BLOCK, 1).t(), power_of_two)


def quantize_both(x: Tensor, power_of_two: bool = True) -> tuple[RowQ, RowQ]:
    """See ``op.quantize_both``."""
    return quantize_rows(x, power_of_two), quantize_tokens(x, power_of_two)


def quantize_weight(w: Tensor, out: WeightQ, power_of_two: bool = True) -> None:
    """See ``op.quantize_weight``."""
    rows, columns = w.shape[-2:]
    tiles = _split(_split(_padded(w.float(), BLOCK, BLOCK), -1), -3)
    blocks, scale = _quantize(tiles, (-3, -1), power_of_two)
    out.data.copy_(blocks.flatten(-2).flatten(-3, -2)[..., :rows, :columns])
    out.data_t.copy_(out.data.transpose(-1, -2))
    out.scale.copy_(scale[..., 0, :, 0])


def transpose_shift(a: RowQ, rows: Tensor | None = None) -> TokQ:
    """See ``op.transpose_shift``."""
    data, scale = a.data, a.scale[:, : a.data.shape[0]]
    picked = torch.arange(data.shape[0], device=data.device) if rows is None else rows.long()
    picked = F.pad(picked, (0, -picked.shape[0] % BLOCK), value=-1)
    # -1 is the row of zeros, and the scale, behind the last.
    row_scale = F.pad(scale, (0, 1), value=SMALLEST_SCALE)[:, picked]  # [K / 128, M_out]
    block_scale = _split(row_scale, 1).amax(2)
    # Bit patterns of powers of two subtract like exponents; beyond 126 every byte is zero anyway.
    drop = (block_scale.repeat_interleave(BLOCK, 1).view(torch.int32) - row_scale.view(torch.int32)) >> 23
    shift = ((127 - drop.clamp_max(126)) << 23).view(torch.float32)
    value = F.pad(data.view(torch.uint8), (0, 0, 0, 1))[picked].view(FP8).float()
    shifted = value.t() * shift.repeat_interleave(BLOCK, 0)[: data.shape[1]]
    canonical = torch.where(shifted.isnan(), torch.nan, shifted)  # a NaN byte may carry a sign, ours does not
    return TokQ(canonical.to(FP8).contiguous(), block_scale.contiguous())


def dequantize(q: RowQ | TokQ | WeightQ) -> Tensor:
    """See ``op.dequantize``."""
    data = q.data.float()
    if isinstance(q, RowQ):
        rows, columns = data.shape
        return data * q.scale[:, :rows].t().repeat_interleave(BLOCK, 1)[:, :columns]
    rows, columns = data.shape[-2:]
    down = q.scale.repeat_interleave(BLOCK, -2)[..., :rows, :]
    return data * down.repeat_interleave(BLOCK, -1)[..., :columns]
