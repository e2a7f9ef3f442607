"""Rotary embedding of queries and of the key they share, in one kernel; a row is one head of one token."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import library

ROWS = 32
"""Of a program's tile."""


@triton.jit
def _rope_forward(
    q_ptr, k_ptr, cos_ptr, sin_ptr, q_out_ptr, k_out_ptr, count, H, token_stride, head_stride, k_stride,
    angles_count, angle_stride, INTERLEAVED: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The rotated part of every query and, as head H of each token, the rotated key."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    token, head = row // (H + 1), row % (H + 1)
    of_query = ((row < count) & (head < H))[:, None]
    of_key = ((row < count) & (head == H))[:, None]
    i = tl.arange(0, HALF)[None, :]
    r = tl.arange(0, 2 * HALF)[None, :]
    q_ptr += (token * token_stride + head * head_stride)[:, None]
    k_ptr += (token * k_stride)[:, None]
    if INTERLEAVED:
        x = tl.load(q_ptr + r, mask=of_query, other=0.0) + tl.load(k_ptr + r, mask=of_key, other=0.0)
        first, second = tl.split(tl.reshape(x, (ROWS, HALF, 2)))
    else:
        first = tl.load(q_ptr + i, mask=of_query, other=0.0) + tl.load(k_ptr + i, mask=of_key, other=0.0)
        i_second = i + HALF
        second = tl.load(q_ptr + i_second, mask=of_query, other=0.0)
        second += tl.load(k_ptr + i_second, mask=of_key, other=0.0)
    first, second = first.to(tl.float32), second.to(tl.float32)
    angle = (token % angles_count * angle_stride)[:, None] + i
    cos = tl.load(cos_ptr + angle, mask=(row < count)[:, None], other=0.0)
    sin = tl.load(sin_ptr + angle, mask=(row < count)[:, None], other=0.0)
    dtype = q_out_ptr.dtype.element_ty
    low, high = (first * cos - second * sin).to(dtype), (second * cos + first * sin).to(dtype)
    q_out_ptr += ((token * H + head) * 2 * HALF)[:, None]
    k_out_ptr += (token * 2 * HALF)[:, None]
    tl.store(q_out_ptr + i, low, mask=of_query)
    tl.store(q_out_ptr + HALF + i, high, mask=of_query)
    tl.store(k_out_ptr + i, low, mask=of_key)
    tl.store(k_out_ptr + HALF + i, high, mask=of_key)


@triton.jit
def _rope_backward(
    dq_nope_ptr, dq_rope_ptr, dk_rope_ptr, cos_ptr, sin_ptr, dq_ptr, dk_ptr, count, H, D,
    angles_count, angle_stride, INTERLEAVED: tl.constexpr, HALF: tl.constexpr, BD: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of whole queries, D of whose features were not rotated, and of the key."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    token, head = row // (H + 1), row % (H + 1)
    of_query = ((row < count) & (head < H))[:, None]
    of_key = ((row < count) & (head == H))[:, None]
    d = tl.arange(0, BD)[None, :]
    query = (token * H + head)[:, None]
    kept = tl.load(dq_nope_ptr + query * D + d, mask=of_query & (d < D), other=0.0)
    tl.store(dq_ptr + query * (D + 2 * HALF) + d, kept, mask=of_query & (d < D))
    i = tl.arange(0, HALF)[None, :]
    q_at, k_at = query * 2 * HALF + i, token[:, None] * 2 * HALF + i
    low = tl.load(dq_rope_ptr + q_at, mask=of_query, other=0.0)
    low += tl.load(dk_rope_ptr + k_at, mask=of_key, other=0.0)
    high = tl.load(dq_rope_ptr + q_at + HALF, mask=of_query, other=0.0)
    high += tl.load(dk_rope_ptr + k_at + HALF, mask=of_key, other=0.0)
    low, high = low.to(tl.float32), high.to(tl.float32)
    angle = (token % angles_count * angle_stride)[:, None] + i
    cos = tl.load(cos_ptr + angle, mask=(row < count)[:, None], other=0.0)
    sin = tl.load(sin_ptr + angle, mask=(row < count)[:, None], other=0.0)
    dtype = dq_ptr.dtype.element_ty
    first, second = (low * cos + high * sin).to(dtype), (high * cos - low * sin).to(dtype)
    dq_ptr += query * (D + 2 * HALF) + D
    dk_ptr += token[:, None] * 2 * HALF
    if INTERLEAVED:
        r = tl.arange(0, 2 * HALF)[None, :]
        pairs = tl.reshape(tl.join(first, second), (ROWS, 2 * HALF))
        tl.store(dq_ptr + r, pairs, mask=of_query)
        tl.store(dk_ptr + r, pairs, mask=of_key)
    else:
        tl.store(dq_ptr + i, first, mask=of_query)
        tl.store(dq_ptr + HALF + i, second, mask=of_query)
        tl.store(dk_ptr + i, first, mask=of_key)
        tl.store(dk_ptr + HALF + i, second, mask=of_key)


def rotate_heads(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``op.rotate_heads``."""
    parts: tuple[Tensor, Tensor, Tensor] = _Rotation.apply(q, k, cos, sin, interleaved)  # type: ignore[no-untyped-call]
    return parts


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        cos, sin = (t.float().contiguous() for t in (cos, sin))
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        return q[..., : q.shape[3] - k.shape[2]], *_rotate_heads(q, k, cos, sin, interleaved)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        dq_nope, dq_rope, dk_rope = (t.contiguous() for t in grads)
        cos, sin = ctx.saved_tensors
        dq, dk = _rotate_heads_backward(dq_nope, dq_rope, dk_rope, cos, sin, ctx.interleaved)
        return dq, dk, None, None, None


def _empty(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    return q.new_empty(*q.shape[:3], k.shape[2]), k.new_empty(k.shape)


@library.op(fake=_empty)
def _rotate_heads(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    q, k = _evenly_spaced(q), _evenly_spaced(k)
    b, s, heads, width = q.shape
    size = k.shape[-1]
    q_rope, k_rope = _empty(q, k, cos, sin, interleaved)
    count = b * s * (heads + 1)
    if count:
        _rope_forward[(triton.cdiv(count, ROWS),)](
            q[..., width - size :], k, cos, sin, q_rope, k_rope, count, heads, *q.stride()[1:3],
            k.stride(1), cos.shape[0] * s, cos.shape[-1],
            INTERLEAVED=interleaved, HALF=size // 2, ROWS=ROWS, num_warps=4,
        )  # fmt: skip
    return q_rope, k_rope


def _empty_gradients(
    dq_nope: Tensor, dq_rope: Tensor, dk_rope: Tensor, cos: Tensor, sin: Tensor, interleaved: bool
) -> tuple[Tensor, Tensor]:
    width = dq_nope.shape[3] + dk_rope.shape[2]
    return dq_nope.new_empty(*dq_nope.shape[:3], width), torch.empty_like(dk_rope)


@library.op(fake=_empty_gradients)
def _rotate_heads_backward(
    dq_nope: Tensor, dq_rope: Tensor, dk_rope: Tensor, cos: Tensor, sin: Tensor, interleaved: bool
) -> tuple[Tensor, Tensor]:
    b, s, heads, kept = dq_nope.shape
    size = dk_rope.shape[-1]
    dq, dk = _empty_gradients(dq_nope, dq_rope, dk_rope, cos, sin, interleaved)
    count = b * s * (heads + 1)
    if count:
        _rope_backward[(triton.cdiv(count, ROWS),)](
            dq_nope, dq_rope, dk_rope, cos, sin, dq, dk, count, heads, kept,
            cos.shape[0] * s, cos.shape[-1], INTERLEAVED=interleaved, HALF=size // 2,
            BD=triton.next_power_of_2(max(kept, 1)), ROWS=ROWS, num_warps=4,
        )  # fmt: skip
    return dq, dk


def _evenly_spaced(t: Tensor) -> Tensor:
    """``t`` [B, S, ...], copied unless tokens are evenly spaced and a token's features are neighbours."""
    even = t.stride(-1) == 1 and (t.shape[0] == 1 or t.stride(0) == t.shape[1] * t.stride(1))
    return t if even else t.contiguous()
