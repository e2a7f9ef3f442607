"""Attention of multi-head latent attention in Triton: causal, within documents, forward and backward.

A head's query and key have two parts, multiplied one after the other: features of its own, and rotated ones
whose key all heads share. So nothing is concatenated, no key is copied to every head, and no product is
padded to a power of two. Backward, scores are recomputed twice, for the gradients of keys and values and for
those of queries: each gradient has one owner, and results repeat bit for bit.

A document is a run of positions. Blocks of scores outside of it are never visited, and only those that a
border crosses are masked. Scores and their log-sum-exp are in base 2.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..quantize.quantize_triton import power_of_two_scale, reciprocal
from ..types import empty_rows

LOG2_E = 1.4426950408889634


class Tile(NamedTuple):
    """How a kernel cuts up a head's scores."""

    own: int
    """Rows whose results a program owns, a multiple of ``met``."""
    met: int
    """Rows it meets at a time."""
    warps: int
    stages: int


FORWARD = Tile(128, 64, 8, 3)
KEYS = Tile(128, 32, 8, 3)
QUERIES = Tile(128, 64, 8, 3)


@triton.jit
def _rows(pointer, row, stride, size, D: tl.constexpr, MASKED: tl.constexpr):
    """Rows of a matrix of ``size`` rows and D columns; beyond the last, if MASKED, zeros."""
    at = pointer + (row[:, None] * stride + tl.arange(0, D)[None, :])
    if MASKED:
        return tl.load(at, mask=(row < size)[:, None], other=0.0)
    return tl.load(at)


@triton.jit
def _store_tile(x, q_ptr, at, s_ptr, s_at, inside):
    """Tiles of 128 columns of several rows, quantised as ``quantize_rows`` does it."""
    # As ``cast_tiles``, which would spill here: the gradient of keys takes all registers there are.
    x = x.to(tl.float32)
    real = tl.abs(x) < float("inf")
    scale = power_of_two_scale(tl.max(tl.where(real, tl.abs(x), 0.0), 1))
    q = tl.where(real, x * reciprocal(scale)[:, None], float("nan")).to(tl.float8e4nv)
    tl.store(q_ptr + at, q, mask=inside[:, None])
    tl.store(s_ptr + s_at, scale, mask=inside)


@triton.jit
def _spans_of_queries(m0, starts_ptr, S, BM: tl.constexpr, BN: tl.constexpr, DOCUMENTS: tl.constexpr):
    """What the queries from m0 on see: the first key, the first and the end of those that all of them see."""
    first = 0
    full = 0
    if DOCUMENTS:
        first = tl.load(starts_ptr + m0) // BN * BN
        latest = tl.load(starts_ptr + tl.minimum(m0 + BM, S) - 1)
        full = tl.minimum(tl.cdiv(latest, BN) * BN, m0)
    return first, full, m0


@triton.jit
def _attend(
    acc, total, largest, qn, qr, m, start, low, high, kn_ptr, kr_ptr, v_ptr, kv_stride, kr_stride, S, scale,
    DN: tl.constexpr, DR: tl.constexpr, DV: tl.constexpr, BN: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Online softmax over the keys from ``low`` to ``high``."""
    for n0 in range(low, high, BN):
        n = n0 + tl.arange(0, BN)
        s = tl.dot(qn, tl.trans(_rows(kn_ptr, n, kv_stride, S, DN, MASKED)))
        s = tl.dot(qr, tl.trans(_rows(kr_ptr, n, kr_stride, S, DR, MASKED)), s) * scale
        if MASKED:
            s = tl.where((n[None, :] <= m[:, None]) & (n[None, :] >= start[:, None]), s, float("-inf"))
        new = tl.maximum(largest, tl.max(s, 1))
        # Of a row that has seen no key yet, any finite number.
        base = tl.where(new == float("-inf"), 0.0, new)
        p = tl.exp2(s - base[:, None])
        shrink = tl.exp2(largest - base)
        total = total * shrink + tl.sum(p, 1)
        v = _rows(v_ptr, n, kv_stride, S, DV, MASKED)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None])
        largest = new
    return acc, total, largest


@triton.jit
def _latent_attention_forward(
    qn_ptr, qr_ptr, kv_ptr, kr_ptr, o_ptr, lse_ptr, q_ptr, s_ptr, starts_ptr, S, H, scale,
    qn_stride, qn_head, qr_stride, qr_head, kv_stride, kv_head, kr_stride, s_stride,
    DN: tl.constexpr, DR: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    DOCUMENTS: tl.constexpr, QUANTIZE: tl.constexpr,
):  # fmt: skip
    # The last queries of a row see most keys, so they go first.
    m0 = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM
    head = tl.program_id(1)
    token = tl.program_id(2).to(tl.int64) * S
    m = m0 + tl.arange(0, BM)
    qn = _rows(qn_ptr + token * qn_stride + head * qn_head, m, qn_stride, S, DN, True)
    qr = _rows(qr_ptr + token * qr_stride + head * qr_head, m, qr_stride, S, DR, True)
    kn_ptr = kv_ptr + token * kv_stride + head * kv_head
    kr_ptr += token * kr_stride
    starts_ptr += token
    start = tl.load(starts_ptr + m, mask=m < S, other=0) if DOCUMENTS else tl.zeros((BM,), tl.int32)
    first, full, diagonal = _spans_of_queries(m0, starts_ptr, S, BM, BN, DOCUMENTS)
    acc = tl.zeros((BM, DV), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    largest = tl.full((BM,), float("-inf"), tl.float32)
    # fmt: off
    if DOCUMENTS:
        acc, total, largest = _attend(
            acc, total, largest, qn, qr, m, start, first, full,
            kn_ptr, kr_ptr, kn_ptr + DN, kv_stride, kr_stride, S, scale, DN, DR, DV, BN, True)
    acc, total, largest = _attend(
        acc, total, largest, qn, qr, m, start, full, diagonal,
        kn_ptr, kr_ptr, kn_ptr + DN, kv_stride, kr_stride, S, scale, DN, DR, DV, BN, False)
    acc, total, largest = _attend(
        acc, total, largest, qn, qr, m, start, diagonal, tl.minimum(m0 + BM, S),
        kn_ptr, kr_ptr, kn_ptr + DN, kv_stride, kr_stride, S, scale, DN, DR, DV, BN, True)
    # fmt: on
    at = ((token + m) * H + head)[:, None] * DV + tl.arange(0, DV)[None, :]
    o = (acc / total[:, None]).to(o_ptr.dtype.element_ty)
    tl.store(o_ptr + at, o, mask=(m < S)[:, None])
    if QUANTIZE:
        _store_tile(o, q_ptr, at, s_ptr, head * s_stride + token + m, m < S)
    tl.store(lse_ptr + token * H + head * S + m, largest + tl.log2(total), mask=m < S)


@triton.jit
def _latent_attention_delta(o_ptr, do_ptr, delta_ptr, S, H, DV: tl.constexpr, BM: tl.constexpr):
    """Sum of output times its gradient: what each softmax takes off."""
    head = tl.program_id(1)
    token = tl.program_id(2).to(tl.int64) * S
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    at = (token * H + head) * DV
    o = _rows(o_ptr + at, m, H * DV, S, DV, True).to(tl.float32)
    do = _rows(do_ptr + at, m, H * DV, S, DV, True).to(tl.float32)
    tl.store(delta_ptr + token * H + head * S + m, tl.sum(o * do, 1), mask=m < S)


@triton.jit
def _gather_for_keys(
    dkn, dkr, dv, kn, kr, v, n, end, low, high, qn_ptr, qr_ptr, do_ptr, lse_ptr, delta_ptr,
    qn_stride, qr_stride, do_stride, S, scale,
    DN: tl.constexpr, DR: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add what the queries from ``low`` to ``high`` send back to a block of keys and values."""
    for m0 in range(low, high, BM):
        m = m0 + tl.arange(0, BM)
        qn = _rows(qn_ptr, m, qn_stride, S, DN, MASKED)
        qr = _rows(qr_ptr, m, qr_stride, S, DR, MASKED)
        s = tl.dot(kr, tl.trans(qr), tl.dot(kn, tl.trans(qn))) * scale
        # Of a query beyond the last, nothing comes.
        p = tl.exp2(s - tl.load(lse_ptr + m, mask=m < S, other=float("inf"))[None, :])
        if MASKED:
            p = tl.where((n[:, None] <= m[None, :]) & (m[None, :] < end[:, None]), p, 0.0)
        do = _rows(do_ptr, m, do_stride, S, DV, MASKED)
        delta = tl.load(delta_ptr + m, mask=m < S, other=0.0)
        ds = (p * (tl.dot(v, tl.trans(do)) - delta[None, :])).to(do.dtype)
        dv = tl.dot(p.to(do.dtype), do, dv)
        dkn = tl.dot(ds, qn, dkn)
        dkr = tl.dot(ds, qr, dkr)
    return dkn, dkr, dv


@triton.jit
def _latent_attention_backward_keys(
    qn_ptr, qr_ptr, kv_ptr, kr_ptr, do_ptr, lse_ptr, delta_ptr, ends_ptr, dkv_ptr, dkr_ptr, s_ptr,
    S, H, scale, qn_stride, qn_head, qr_stride, qr_head, kv_stride, kv_head, kr_stride, s_stride,
    DN: tl.constexpr, DR: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    DOCUMENTS: tl.constexpr, QUANTIZE: tl.constexpr,
):  # fmt: skip
    n0 = tl.program_id(0) * BN
    head = tl.program_id(1)
    token = tl.program_id(2).to(tl.int64) * S
    n = n0 + tl.arange(0, BN)
    qn_ptr += token * qn_stride + head * qn_head
    qr_ptr += token * qr_stride + head * qr_head
    kv_ptr += token * kv_stride + head * kv_head
    do_ptr += (token * H + head) * DV
    lse_ptr += token * H + head * S
    delta_ptr += token * H + head * S
    kn = _rows(kv_ptr, n, kv_stride, S, DN, True)
    kr = _rows(kr_ptr + token * kr_stride, n, kr_stride, S, DR, True)
    v = _rows(kv_ptr + DN, n, kv_stride, S, DV, True)
    end = tl.full((BN,), S, tl.int32)
    full = S // BM * BM
    last = S
    if DOCUMENTS:
        ends_ptr += token
        end = tl.load(ends_ptr + n, mask=n < S, other=0)
        full = tl.load(ends_ptr + n0) // BM * BM
        last = tl.load(ends_ptr + tl.minimum(n0 + BN, S) - 1)
    diagonal = tl.minimum(n0 + BN, last)
    full = tl.maximum(full, n0 + BN)
    dkn = tl.zeros((BN, DN), tl.float32)
    dkr = tl.zeros((BN, DR), tl.float32)
    dv = tl.zeros((BN, DV), tl.float32)
    # Bounds are read again where they are needed: kept, they would spill.
    # fmt: off
    dkn, dkr, dv = _gather_for_keys(
        dkn, dkr, dv, kn, kr, v, n, end, n0, diagonal, qn_ptr, qr_ptr, do_ptr, lse_ptr, delta_ptr,
        qn_stride, qr_stride, H * DV, S, scale, DN, DR, DV, BM, True)
    if DOCUMENTS:
        full = tl.maximum(tl.load(ends_ptr + n0) // BM * BM, n0 + BN)
    dkn, dkr, dv = _gather_for_keys(
        dkn, dkr, dv, kn, kr, v, n, end, n0 + BN, full, qn_ptr, qr_ptr, do_ptr, lse_ptr, delta_ptr,
        qn_stride, qr_stride, H * DV, S, scale, DN, DR, DV, BM, False)
    if DOCUMENTS:
        last = tl.load(ends_ptr + tl.minimum(n0 + BN, S) - 1)
    dkn, dkr, dv = _gather_for_keys(
        dkn, dkr, dv, kn, kr, v, n, end, full, last, qn_ptr, qr_ptr, do_ptr, lse_ptr, delta_ptr,
        qn_stride, qr_stride, H * DV, S, scale, DN, DR, DV, BM, True)
    # fmt: on
    row = ((token + n) * H + head)[:, None]
    inside = (n < S)[:, None]
    # Scores are in base 2, their gradients are not.
    natural = scale * 0.6931471805599453
    dtype = dkr_ptr.dtype.element_ty
    tl.store(dkr_ptr + row * DR + tl.arange(0, DR)[None, :], (dkr * natural).to(dtype), mask=inside)
    k_at = row * (DN + DV) + tl.arange(0, DN)[None, :]
    v_at = row * (DN + DV) + DN + tl.arange(0, DV)[None, :]
    if QUANTIZE:
        s_at = 2 * head * s_stride + tl.program_id(2) * S + n
        _store_tile(dv.to(dtype), dkv_ptr, v_at, s_ptr, s_at + s_stride, n < S)
        _store_tile((dkn * natural).to(dtype), dkv_ptr, k_at, s_ptr, s_at, n < S)
    else:
        tl.store(dkv_ptr + k_at, (dkn * natural).to(dtype), mask=inside)
        tl.store(dkv_ptr + v_at, dv.to(dtype), mask=inside)


@triton.jit
def _gather_for_queries(
    dqn, dqr, qn, qr, do, lse, delta, m, start, low, high, kn_ptr, kr_ptr, v_ptr, kv_stride, kr_stride,
    S, scale, DN: tl.constexpr, DR: tl.constexpr, DV: tl.constexpr, BN: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Add what the keys from ``low`` to ``high`` send back to a block of queries."""
    for n0 in range(low, high, BN):
        n = n0 + tl.arange(0, BN)
        kn = _rows(kn_ptr, n, kv_stride, S, DN, MASKED)
        kr = _rows(kr_ptr, n, kr_stride, S, DR, MASKED)
        s = tl.dot(qr, tl.trans(kr), tl.dot(qn, tl.trans(kn))) * scale
        p = tl.exp2(s - lse[:, None])
        if MASKED:
            p = tl.where((n[None, :] <= m[:, None]) & (n[None, :] >= start[:, None]), p, 0.0)
        v = _rows(v_ptr, n, kv_stride, S, DV, MASKED)
        ds = (p * (tl.dot(do, tl.trans(v)) - delta[:, None])).to(do.dtype)
        dqn = tl.dot(ds, kn, dqn)
        dqr = tl.dot(ds, kr, dqr)
    return dqn, dqr


@triton.jit
def _latent_attention_backward_queries(
    qn_ptr, qr_ptr, kv_ptr, kr_ptr, do_ptr, lse_ptr, delta_ptr, starts_ptr, dqn_ptr, dqr_ptr,
    S, H, scale, qn_stride, qn_head, qr_stride, qr_head, kv_stride, kv_head, kr_stride,
    DN: tl.constexpr, DR: tl.constexpr, DV: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    DOCUMENTS: tl.constexpr,
):  # fmt: skip
    m0 = (tl.num_programs(0) - 1 - tl.program_id(0)) * BM
    head = tl.program_id(1)
    token = tl.program_id(2).to(tl.int64) * S
    m = m0 + tl.arange(0, BM)
    qn = _rows(qn_ptr + token * qn_stride + head * qn_head, m, qn_stride, S, DN, True)
    qr = _rows(qr_ptr + token * qr_stride + head * qr_head, m, qr_stride, S, DR, True)
    do = _rows(do_ptr + (token * H + head) * DV, m, H * DV, S, DV, True)
    lse = tl.load(lse_ptr + token * H + head * S + m, mask=m < S, other=float("inf"))
    delta = tl.load(delta_ptr + token * H + head * S + m, mask=m < S, other=0.0)
    kn_ptr = kv_ptr + token * kv_stride + head * kv_head
    kr_ptr += token * kr_stride
    starts_ptr += token
    start = tl.load(starts_ptr + m, mask=m < S, other=0) if DOCUMENTS else tl.zeros((BM,), tl.int32)
    first, full, diagonal = _spans_of_queries(m0, starts_ptr, S, BM, BN, DOCUMENTS)
    dqn = tl.zeros((BM, DN), tl.float32)
    dqr = tl.zeros((BM, DR), tl.float32)
    # fmt: off
    if DOCUMENTS:
        dqn, dqr = _gather_for_queries(
            dqn, dqr, qn, qr, do, lse, delta, m, start, first, full,
            kn_ptr, kr_ptr, kn_ptr + DN, kv_stride, kr_stride, S, scale, DN, DR, DV, BN, True)
    dqn, dqr = _gather_for_queries(
        dqn, dqr, qn, qr, do, lse, delta, m, start, full, diagonal,
        kn_ptr, kr_ptr, kn_ptr + DN, kv_stride, kr_stride, S, scale, DN, DR, DV, BN, False)
    dqn, dqr = _gather_for_queries(
        dqn, dqr, qn, qr, do, lse, delta, m, start, diagonal, tl.minimum(m0 + BM, S),
        kn_ptr, kr_ptr, kn_ptr + DN, kv_stride, kr_stride, S, scale, DN, DR, DV, BN, True)
    # fmt: on
    row = ((token + m) * H + head)[:, None]
    natural = scale * 0.6931471805599453
    dtype = dqn_ptr.dtype.element_ty
    tl.store(dqn_ptr + row * DN + tl.arange(0, DN)[None, :], (dqn * natural).to(dtype), mask=(m < S)[:, None])
    tl.store(dqr_ptr + row * DR + tl.arange(0, DR)[None, :], (dqr * natural).to(dtype), mask=(m < S)[:, None])


def forward(
    qn: Tensor,
    qr: Tensor,
    kv: Tensor,
    kr: Tensor,
    scale: float,
    starts: Tensor | None,
    quantize: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output [B, S, H, Dv], log-sum-exp in base 2 [B, H, S], and if asked for bytes and scales of the output;
    arguments as ``op.latent_attention``'s.
    """
    b, s, h, dn = qn.shape
    dv = kv.shape[3] - dn
    o = torch.empty(b, s, h, dv, dtype=qn.dtype, device=qn.device)
    lse = torch.empty(b, h, s, dtype=torch.float32, device=qn.device)
    data, scales = empty_rows(b * s * quantize, h * dv * quantize, qn.device)
    tile = FORWARD
    _latent_attention_forward[(triton.cdiv(s, tile.own), h, b)](
        qn, qr, kv, kr, o, lse, data, scales, lse if starts is None else starts, s, h, scale * LOG2_E,
        *_strides(qn, qr, kv, kr), b * s, dn, qr.shape[3], dv, tile.own, tile.met, starts is not None,
        quantize, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return o, lse, data, scales


def backward(
    grad: Tensor, o: Tensor, lse: Tensor, qn: Tensor, qr: Tensor, kv: Tensor, kr: Tensor,
    scale: float, bounds: tuple[Tensor, Tensor] | None, quantize: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of ``qn``, ``qr``, ``kv`` (or its bytes) and ``kr``, and the scales of such bytes."""
    b, s, h, dn = qn.shape
    dr, dv = qr.shape[3], kv.shape[3] - dn
    delta = softmax_deltas(o, grad)
    dqn, dqr = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (qn, qr))
    data, scales = empty_rows(b * s * quantize, h * (dn + dv) * quantize, kv.device)
    dkv = data if quantize else torch.empty(kv.shape, dtype=kv.dtype, device=kv.device)
    dkr = torch.empty(b, s, h, dr, dtype=kr.dtype, device=kr.device)
    starts, ends = bounds or (lse, lse)
    given = (qn, qr, kv, kr, grad, lse, delta)
    sizes, strides, features = (s, h, scale * LOG2_E), _strides(qn, qr, kv, kr), (dn, dr, dv)
    _latent_attention_backward_keys[(triton.cdiv(s, KEYS.own), h, b)](
        *given, ends, dkv, dkr, scales, *sizes, *strides, b * s, *features, KEYS.met, KEYS.own,
        bounds is not None, quantize, num_warps=KEYS.warps, num_stages=KEYS.stages,
    )  # fmt: skip
    _latent_attention_backward_queries[(triton.cdiv(s, QUERIES.own), h, b)](
        *given, starts, dqn, dqr, *sizes, *strides, *features, QUERIES.own, QUERIES.met, bounds is not None,
        num_warps=QUERIES.warps, num_stages=QUERIES.stages,
    )  # fmt: skip
    # The shared key's gradient comes from all heads.
    return dqn, dqr, dkv, dkr.sum(2), scales


def softmax_deltas(o: Tensor, grad: Tensor) -> Tensor:
    """The sum over the features of an output times its gradient, float32 [B, H, S]."""
    b, s, h, dv = o.shape
    delta = torch.empty(b, h, s, dtype=torch.float32, device=o.device)
    _latent_attention_delta[(triton.cdiv(s, 64), h, b)](o, grad, delta, s, h, dv, 64, num_warps=4)
    return delta


def shared_memory_bytes(features: int, hopper: bool) -> int:
    """What the kernel that takes most of it takes, for so many features of a query, a key and a value."""
    # A buffer more is under way where products read them while copies go on.
    tile, buffers = QUERIES, QUERIES.stages - (not hopper)
    return 2 * features * (tile.own + buffers * tile.met)


def _strides(qn: Tensor, qr: Tensor, kv: Tensor, kr: Tensor) -> tuple[int, ...]:
    """Of a token and of a head."""
    return (*qn.stride()[1:3], *qr.stride()[1:3], *kv.stride()[1:3], kr.stride(1))
