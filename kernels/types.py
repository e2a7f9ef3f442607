"""The tensors that kernels pass to one another, each with the scales that give its bytes a meaning.

Every scale is float32 and the *multiplier*: value = byte * scale. It is a power of two unless a cast was
asked for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
BLOCK = 128
"""Elements that share a scale along a row, and the edge of a square block."""


@dataclass(frozen=True)
class RowQ:
    """A matrix quantised along its rows, one scale for each 1x128 tile.

    ``quantize_tokens`` uses the same layout for a transposed matrix: there a row is a feature and runs over
    the tokens.
    """

    data: Tensor
    """float8_e4m3fn [M, K]."""
    scale: Tensor
    """float32 [ceil(K / 128), M rounded up to 4]; the rows are contiguous, as TMA and cuBLAS want them."""
    power_of_two: bool = field(default=True, kw_only=True)
    """Whether every scale is a power of two, as transposing by exponents needs."""

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        """The tensors, as an op takes them."""
        return self.data, self.scale


@dataclass(frozen=True)
class TokQ:
    """A transposed matrix, tokens contiguous, one scale for each 128x128 block: the operand of wgrad."""

    data: Tensor
    """float8_e4m3fn [K, M], M a multiple of 128."""
    scale: Tensor
    """float32 [ceil(K / 128), M / 128]."""

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        """The tensors, as an op takes them."""
        return self.data, self.scale


@dataclass(frozen=True)
class WeightQ:
    """A weight in both layouts, one scale for each 128x128 block; a leading dimension E counts experts."""

    data: Tensor
    """float8_e4m3fn [E?, N, K]: the operand of fprop."""
    data_t: Tensor
    """float8_e4m3fn [E?, K, N]: the same bytes transposed, the operand of dgrad."""
    scale: Tensor
    """float32 [E?, ceil(N / 128), ceil(K / 128)]."""

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The tensors, as an op takes them."""
        return self.data, self.data_t, self.scale


@dataclass(frozen=True)
class SwiGLUGradients:
    """What the backward pass of a feed-forward layer multiplies next."""

    dh: RowQ
    """[M, 2 * I]: for the gradient of the layer's input."""
    dh_t: TokQ
    """[2 * I, M]: the same bytes transposed, for the gradient of gate and up."""
    s_t: TokQ
    """[I, M]: the activation times its weight, transposed, for the gradient of the down projection."""
    dp: Tensor
    """float32 [M]: gradient of the weight of each row."""


@dataclass(frozen=True)
class Groups:
    """Where the rows of each expert stand: made on the device, read on the device, never by the host.

    Expert e owns rows ``offsets[e]`` to ``offsets[e + 1]`` of a matrix of R_max rows; the first ``counts[e]``
    of them are tokens, the rest zero rows that fill the last block. Rows from ``offsets[E]`` on belong to
    nobody.
    """

    offsets: Tensor
    """int32 [E + 1], multiples of ``block``."""
    block_expert: Tensor
    """int32 [R_max / block]: the expert of each block of rows, -1 after the last."""
    row_token: Tensor
    """int32 [R_max]: the token each row was copied from, -1 for a filling row."""
    token_pos: Tensor
    """int32 [T, k]: the row of each token's choice, -1 where the token is not routed."""
    counts: Tensor
    """int32 [E]: tokens of each expert, filling rows not counted."""
    block: int = BLOCK
    """Rows every group is rounded up to."""

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> Groups:
        """Groups of ``parts``; an op, whose caller has checked it, does not need ``block``."""
        return cls(*parts)  # type: ignore[arg-type]

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The tensors, as an op takes them."""
        return self.offsets, self.block_expert, self.row_token, self.token_pos, self.counts

    @property
    def n_experts(self) -> int:
        return self.counts.shape[0]

    @property
    def n_rows(self) -> int:
        """R_max: the rows a permuted matrix has, fixed by T, k and E alone."""
        return self.row_token.shape[0]


def aligned(x: Tensor) -> Tensor:
    """``x`` as TMA wants it: whole rows, from a multiple of 16 bytes on. Other views are copied."""
    if x.is_contiguous() and x.data_ptr() % 16 == 0:
        return x
    return x.clone(memory_format=torch.contiguous_format)


def empty_rows(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Data and scale of a RowQ without values."""
    scale = torch.empty(-(-columns // BLOCK), -(-rows // 4) * 4, dtype=torch.float32, device=device)
    return torch.empty(rows, columns, dtype=FP8, device=device), scale


def empty_tokens(tokens: int, features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Data and scale of a TokQ without values."""
    blocks = -(-tokens // BLOCK)
    scale = torch.empty(-(-features // BLOCK), blocks, dtype=torch.float32, device=device)
    return torch.empty(features, blocks * BLOCK, dtype=FP8, device=device), scale
