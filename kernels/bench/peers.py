"""Products of other libraries on the operands of ours; what an installation lacks raises when called."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..gemm import gemm_torch
from ..types import FP8, Groups, RowQ
from .case import Answer, Contender

BLOCK, BF16 = "cuBLAS block fp8", "cuBLAS bf16"
GROUPED_BF16, GROUPED_ROWS = "_grouped_mm bf16", "_scaled_grouped_mm fp8"
_LARGEST = 448.0


def tensor_wise(a: Tensor, b: Tensor) -> Callable[[], Tensor]:
    """``a @ b.T`` of FP8 [M, K] and [N, K] with one scale each: what the tensor cores reach at most."""
    one = torch.ones(())

    def call() -> Tensor:
        product: Tensor = torch._scaled_mm(
            a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
        )
        return product

    return call


def block_wgrad(g: RowQ, x: RowQ) -> Callable[[], Tensor]:
    """``g @ x.T`` in float32, both with scales of 1x128 along the tokens."""
    return partial(gemm_torch.scaled_mm, g.data, g.scale, x.data, x.scale, blocks=False, dtype=torch.float32)


def deep_gemm(a: RowQ, b: Tensor, b_scale: Tensor, answer: Answer) -> list[Contender]:
    """DeepGEMM, where it can be imported."""
    if importlib.util.find_spec("deep_gemm") is None:
        return []
    out = torch.empty(a.data.shape[0], b.shape[0], dtype=torch.bfloat16)
    scale = b_scale.contiguous()

    def call() -> Tensor:
        library = importlib.import_module("deep_gemm")
        library.fp8_gemm_nt((a.data, a.scale[:, : a.data.shape[0]].t()), (b, scale), out)
        return out

    return [Contender("DeepGEMM", call, answer)]


def grouped_bf16(x: Tensor, w: Tensor, groups: Groups) -> Callable[[], Tensor]:
    """``x[rows of e] @ w[e]`` for w [E, K, N]; for a weight gradient x [N, R] and w [R, K]."""
    ends = groups.offsets[1:].contiguous()

    def call() -> Tensor:
        product: Tensor = torch._grouped_mm(x, w, offs=ends)
        return product

    return call


def grouped_rows(x: Tensor, w: Tensor, groups: Groups) -> Callable[[], Tensor]:
    """The same for w [E, N, K] in FP8, with one scale for each row of ``x`` and of ``w``."""
    ends = groups.offsets[1:].contiguous()
    a, a_scale = _by_rows(x)
    # Expert by expert, for a stack in float32 would not fit beside its copies.
    parts = [_by_rows(one) for one in w]
    b, b_scale = torch.stack([data for data, _ in parts]), torch.stack([scale for _, scale in parts])

    def call() -> Tensor:
        product: Tensor = torch._scaled_grouped_mm(
            a,
            b.transpose(1, 2),
            a_scale,
            b_scale,
            offs=ends,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return product

    return call


def _by_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    scale = x.abs().amax(-1).float().clamp_min(1e-12) / _LARGEST
    return (x / scale[:, None]).to(FP8), scale
