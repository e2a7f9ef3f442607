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
from ..quantize.quantize_triton import finite, power_of_two_scale, reciprocal
from ..states import States
from ..types import empty_rows

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


@triton.jit
def _rope_backward_rows(
    dq_nope_ptr, dq_rope_ptr, dk_rope_ptr, cos_ptr, sin_ptr, dq_ptr, s_ptr, dk_ptr, count, H, s_stride,
    angles_count, angle_stride, D: tl.constexpr, INTERLEAVED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The same with 64 rotated features; the gradient of queries quantised, all heads of a token a row.

    A tile of 128 columns is two chunks, and all of a chunk was rotated or nothing. After the tiles, a program
    makes the key's.
    """
    tiles = tl.cdiv(H * (D + 64), 128)
    tile = tl.program_id(0) % (tiles + 1)
    token = (tl.program_id(0) // (tiles + 1)).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = (token < count)[:, None]
    angle = (token % angles_count * angle_stride)[:, None]
    cos_ptr += angle
    sin_ptr += angle
    d = tl.arange(0, 64)[None, :]
    if tile == tiles:
        at = token[:, None] * 64
        dk = _rotated_back(dk_rope_ptr + at, cos_ptr, sin_ptr, real, INTERLEAVED, ROWS)
        tl.store(dk_ptr + at + d, dk, mask=real)
    else:
        # fmt: off
        left = _query_chunk(
            dq_nope_ptr, dq_rope_ptr, cos_ptr, sin_ptr, token, 2 * tile, H, real, D, INTERLEAVED, ROWS)
        right = _query_chunk(
            dq_nope_ptr, dq_rope_ptr, cos_ptr, sin_ptr, token, 2 * tile + 1, H, real, D, INTERLEAVED, ROWS)
        # fmt: on
        left, right = finite(left), finite(right)
        scale = power_of_two_scale(tl.maximum(tl.max(tl.abs(left), 1), tl.max(tl.abs(right), 1)))
        inverse = reciprocal(scale)[:, None]
        size = H * (D + 64)
        q_at = token[:, None] * size + tile * 128 + d
        tl.store(dq_ptr + q_at, (left * inverse).to(tl.float8e4nv), mask=real)
        tl.store(
            dq_ptr + q_at + 64, (right * inverse).to(tl.float8e4nv), mask=real & (tile * 128 + 64 < size)
        )
        tl.store(s_ptr + tile * s_stride + token, scale, mask=token < s_stride)


@triton.jit
def _query_chunk(
    dq_nope_ptr, dq_rope_ptr, cos_ptr, sin_ptr, token, chunk, H, real,
    D: tl.constexpr, INTERLEAVED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """64 features of the gradient of queries, zeros behind the last head."""
    head = chunk // (D // 64 + 1)
    part = chunk % (D // 64 + 1)
    row, inside = (token * H + head)[:, None], real & (head < H)
    if part == D // 64:
        x = _rotated_back(dq_rope_ptr + row * 64, cos_ptr, sin_ptr, inside, INTERLEAVED, ROWS)
    else:
        at = row * D + part * 64 + tl.arange(0, 64)[None, :]
        x = tl.load(dq_nope_ptr + at, mask=inside, other=0.0)
    return x.to(tl.float32)


@triton.jit
def _rotated_back(x_ptr, cos_ptr, sin_ptr, inside, INTERLEAVED: tl.constexpr, ROWS: tl.constexpr):
    """The gradient of 64 features before a rotation, from that behind it."""
    i = tl.arange(0, 32)[None, :]
    low = tl.load(x_ptr + i, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(x_ptr + 32 + i, mask=inside, other=0.0).to(tl.float32)
    cos = tl.load(cos_ptr + i, mask=inside, other=0.0)
    sin = tl.load(sin_ptr + i, mask=inside, other=0.0)
    pairs = tl.join(low * cos + high * sin, high * cos - low * sin)
    if not INTERLEAVED:
        pairs = tl.permute(pairs, (0, 2, 1))
    return tl.reshape(pairs, (ROWS, 64)).to(x_ptr.dtype.scalar.element_ty)


def rotate_heads(
    q: States, k: Tensor, cos: Tensor, sin: Tensor, interleaved: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See ``op.rotate_heads``."""
    chunks = k.shape[2] == 64 and q.values.shape[3] % 64 == 0
    place = q.gradient.parts if chunks and q.gradient is not None else (None, None)
    parts: tuple[Tensor, Tensor, Tensor] = _Rotation.apply(q.values, *place, k, cos, sin, interleaved)  # type: ignore[no-untyped-call]
    return parts


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        q, place, _, k, cos, sin, interleaved = arguments
        cos, sin = (t.float().contiguous() for t in (cos, sin))
        ctx.save_for_backward(cos, sin)
        ctx.interleaved, ctx.quantize = interleaved, place is not None
        return q[..., : q.shape[3] - k.shape[2]], *_rotate_heads(q, k, cos, sin, interleaved)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dq_nope, dq_rope, dk_rope = (t.contiguous() for t in grads)
        cos, sin = ctx.saved_tensors
        given = (dq_nope, dq_rope, dk_rope, cos, sin, ctx.interleaved)
        unused = (None,) * 3
        if ctx.quantize:
            data, scale, dk = _rotate_heads_backward_rows(*given)
            return None, data, scale, dk, *unused
        dq, dk = _rotate_heads_backward(*given)
        return dq, None, None, dk, *unused


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


def _empty_rows(
    dq_nope: Tensor, dq_rope: Tensor, dk_rope: Tensor, cos: Tensor, sin: Tensor, interleaved: bool
) -> tuple[Tensor, Tensor, Tensor]:
    width = dq_nope.shape[2] * (dq_nope.shape[3] + dk_rope.shape[2])
    data, scale = empty_rows(dk_rope.shape[:2].numel(), width, dk_rope.device)
    return data, scale, torch.empty_like(dk_rope)


@library.op(fake=_empty_rows)
def _rotate_heads_backward_rows(
    dq_nope: Tensor, dq_rope: Tensor, dk_rope: Tensor, cos: Tensor, sin: Tensor, interleaved: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of queries, all heads of a token a row, as bytes and scales; and that of the key."""
    b, s, heads, kept = dq_nope.shape
    data, scale, dk = _empty_rows(dq_nope, dq_rope, dk_rope, cos, sin, interleaved)
    if data.numel():
        programs = triton.cdiv(scale.shape[1], ROWS) * (scale.shape[0] + 1)
        _rope_backward_rows[(programs,)](
            dq_nope, dq_rope, dk_rope, cos, sin, data, scale, dk, b * s, heads, scale.shape[1],
            cos.shape[0] * s, cos.shape[-1], D=kept, INTERLEAVED=interleaved, ROWS=ROWS, num_warps=4,
        )  # fmt: skip
    return data, scale, dk


def _evenly_spaced(t: Tensor) -> Tensor:
    """``t`` [B, S, ...], copied unless tokens are evenly spaced and a token's features are neighbours."""
    even = t.stride(-1) == 1 and (t.shape[0] == 1 or t.stride(0) == t.shape[1] * t.stride(1))
    return t if even else t.contiguous()
