"""Latent attention on Hopper: launches of the Gluon kernels, for DeepSeek's heads."""

from __future__ import annotations

import torch
from torch import Tensor
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from .. import registry
from ..gemm.launch_gluon import SCALES as STATISTICS
from ..gemm.launch_gluon import SWIZZLED
from ..types import empty_rows
from .backward_keys_gluon import latent_attention_backward_keys
from .backward_queries_gluon import latent_attention_backward_queries
from .blocks_gluon import BYTES, HALF, NOPE, OWN, ROPE, VALUE
from .forward_gluon import latent_attention_forward
from .latent_triton import LOG2_E, softmax_deltas

FORWARD = {"BN": 128, "STAGES": 2}
KEYS = {"BM": 64, "STAGES": 2}
QUERIES = {"BN": 64, "STAGES": 3}
"""Keys, or queries, that a tile meets at a time, and blocks of them under way or in use."""
REGISTERS = 240
"""Of each thread of the consumers."""
_NOPE, _ROPE, _VALUE, _OWN, _HALF = (constant.value for constant in (NOPE, ROPE, VALUE, OWN, HALF))


def fits(qn: Tensor, qr: Tensor, kv: Tensor, kr: Tensor, scale: float) -> bool:
    """Whether heads have DeepSeek's sizes, rows are whole blocks, TMA can walk them, and scores keep their
    order when they are scaled, which they are after the largest is found.
    """
    deepseek = (qn.shape[3], qr.shape[3], kv.shape[3]) == (_NOPE, _ROPE, _NOPE + _VALUE)
    whole = qn.shape[1] % _OWN == 0 and qn.shape[:3].numel() < 2**31
    return deepseek and whole and scale > 0 and all(map(_walkable, (qn, qr, kv, kr[:, :, None])))


def _walkable(t: Tensor) -> bool:
    """Whether the tokens of all rows follow one another, in steps that TMA takes."""
    row, token, head, feature = t.stride()
    even = token % 8 == head % 8 == 0 and t.data_ptr() % 16 == 0
    return even and feature == 1 and token > 0 and (t.shape[0] == 1 or row == t.shape[1] * token)


def forward(
    qn: Tensor,
    qr: Tensor,
    kv: Tensor,
    kr: Tensor,
    scale: float,
    starts: Tensor | None,
    quantize: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See ``latent_triton.forward``; of operands that fit."""
    b, s, h, _ = qn.shape
    o = qn.new_empty(b, s, h, _VALUE)
    lse = torch.empty(b, h, s, dtype=torch.float32, device=qn.device)
    data, scales = empty_rows(b * s * quantize, h * _VALUE * quantize, qn.device)
    block = FORWARD["BN"]
    (taken,) = _counters(1, qn.device)
    latent_attention_forward[_programs(b, s, h, qn.device)](
        _rows(qn, _HALF), _rows(qr, _HALF), *_keys_and_values(kv, kr, block), _rows(o, _HALF, _HALF),
        _bytes(data) if quantize else None, lse, scales, lse if starts is None else starts, taken,
        s, h, b, scale * LOG2_E, *_head_strides(qn, qr, kv), b * s,
        DOCUMENTS=starts is not None, QUANTIZE=quantize, **FORWARD, REGISTERS=REGISTERS, num_warps=4,
    )  # fmt: skip
    return o, lse, data, scales


def backward(
    grad: Tensor, o: Tensor, lse: Tensor, qn: Tensor, qr: Tensor, kv: Tensor, kr: Tensor,
    scale: float, bounds: tuple[Tensor, Tensor] | None, quantize: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See ``latent_triton.backward``; of operands that fit."""
    b, s, h, _ = qn.shape
    grad, delta = _aligned(grad), softmax_deltas(o, grad)
    dqn, dqr = qn.new_empty(qn.shape), qr.new_empty(qr.shape)
    data, scales = empty_rows(b * s * quantize, h * (_NOPE + _VALUE) * quantize, kv.device)
    dkv, dkr = data if quantize else kv.new_empty(kv.shape), kr.new_empty(b, s, h, _ROPE)
    starts, ends = bounds or (lse, lse)
    sizes, strides, documents = (s, h, b, scale * LOG2_E), _head_strides(qn, qr, kv), bounds is not None
    block = KEYS["BM"]
    programs, taken = _programs(b, s, h, qn.device), _counters(2, qn.device)
    latent_attention_backward_keys[programs](
        _rows(qn, block), _rows(qr, block), *_keys_and_values(kv, kr, _HALF), _rows(grad, block),
        _statistics(lse, block), _statistics(delta, block), _statistics(starts, block) if documents else None,
        _bytes(dkv) if quantize else _rows(dkv, _HALF, _HALF), dkr, scales, starts, ends,
        taken[0], *sizes, *strides, b * s,
        DOCUMENTS=documents, QUANTIZE=quantize, **KEYS, REGISTERS=REGISTERS, num_warps=4,
    )  # fmt: skip
    latent_attention_backward_queries[programs](
        _rows(qn, _HALF), _rows(qr, _HALF), *_keys_and_values(kv, kr, QUERIES["BN"]), _rows(grad, _HALF),
        _rows(dqn, _HALF, _HALF), _rows(dqr, _HALF), lse, delta, starts, taken[1], *sizes, *strides,
        DOCUMENTS=documents, **QUERIES, REGISTERS=REGISTERS, num_warps=4,
    )  # fmt: skip
    # The shared key's gradient comes from all heads.
    return dqn, dqr, dkv, dkr.sum(2), scales


def _programs(b: int, s: int, h: int, device: torch.device) -> tuple[int]:
    """A program on each multiprocessor that has a tile to work on."""
    return (min(registry.multiprocessors(device), s // _OWN * h * b),)


def _counters(n: int, device: torch.device) -> tuple[Tensor, ...]:
    """Where tiles are counted, from zero: 16 bytes apart, or launches would take them for other pointers."""
    return torch.zeros(n, 4, dtype=torch.int32, device=device).unbind()


def _keys_and_values(kv: Tensor, kr: Tensor, block: int) -> tuple[TensorDescriptor, ...]:
    kn, v = kv[..., :_NOPE], kv[..., _NOPE:]
    return _rows(kn, block), _rows(kr[:, :, None], block), _rows(v, block)


def _rows(t: Tensor, block: int, columns: int | None = None) -> TensorDescriptor:
    """Tokens of all rows of a batch, in blocks of one head's features or of so many columns."""
    b, s, h, d = t.shape
    size = [b * s, (h - 1) * t.stride(2) + d]
    return TensorDescriptor(t, size, [t.stride(1), 1], [block, columns or d], SWIZZLED[2])


def _bytes(data: Tensor) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(data, [_HALF, _VALUE], BYTES.value)


def _statistics(t: Tensor, block: int) -> TensorDescriptor:
    return TensorDescriptor.from_tensor(_aligned(t).view(-1), [block], STATISTICS)


def _aligned(t: Tensor) -> Tensor:
    """``t`` where TMA can read it."""
    return t if t.data_ptr() % 16 == 0 else t.clone()


def _head_strides(qn: Tensor, qr: Tensor, kv: Tensor) -> tuple[int, int, int]:
    """Elements from one head to the next."""
    return qn.stride(2), qr.stride(2), kv.stride(2)
