"""The gradient of the queries of latent attention, for Hopper in Gluon: device code.

``latent_gluon`` calls it. As in ``forward_gluon`` a warpgroup computes what comes of one block of keys while
the tensor cores multiply the block before.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from ..gemm.sums_gluon import following
from ..gemm.tiles_gluon import heard, take
from .blocks_gluon import (
    HALF,
    HEAD,
    LN_2,
    NOPE,
    OWN,
    PHASE,
    ROPE,
    ROW,
    STATISTICS,
    VALUE,
    accumulator,
    announce_end,
    announce_queries,
    barriers,
    heard_queries,
    is_cut,
    left,
    load,
    notes,
    seen,
    store,
    store_halves,
    to_16_bits,
)


@gluon.jit(do_not_specialize=("H", "B"))
def latent_attention_backward_queries(
    qn_desc, qr_desc, kn_desc, kr_desc, v_desc, do_desc, dqn_desc, dqr_desc, lse_ptr, delta_ptr, starts_ptr,
    taken_ptr, S, H, B, scale, qn_head_stride, qr_head_stride, kv_head_stride,
    BN: gl.constexpr, DOCUMENTS: gl.constexpr, STAGES: gl.constexpr, REGISTERS: gl.constexpr,
):  # fmt: skip
    """As ``latent_triton._latent_attention_backward_queries``; see ``forward_gluon``."""
    dtype: gl.constexpr = qn_desc.dtype
    qn_s = gl.allocate_shared_memory(dtype, [2, HALF, NOPE], qn_desc.layout)
    qr_s = gl.allocate_shared_memory(dtype, [2, HALF, ROPE], qr_desc.layout)
    do_s = gl.allocate_shared_memory(dtype, [2, HALF, VALUE], do_desc.layout)
    kn_s = gl.allocate_shared_memory(dtype, [STAGES, BN, NOPE], kn_desc.layout)
    kr_s = gl.allocate_shared_memory(dtype, [STAGES, BN, ROPE], kr_desc.layout)
    v_s = gl.allocate_shared_memory(dtype, [STAGES, BN, VALUE], v_desc.layout)
    dq_s = gl.allocate_shared_memory(dtype, [2, HALF, HALF], dqn_desc.layout)
    tile_s = notes()
    own_full, own_empty = barriers(1)
    full, empty = barriers(STAGES)
    own = (qn_s, qr_s, do_s, tile_s, own_full.index(0), own_empty.index(0))
    ring = (kn_s, kr_s, v_s, full, empty)
    descs = (qn_desc, qr_desc, kn_desc, kr_desc, v_desc, do_desc)
    given = (dqn_desc, dqr_desc, dq_s, lse_ptr, delta_ptr)
    tables = (starts_ptr, taken_ptr)
    sizes = (S, H, B)
    heads = (qn_head_stride, qr_head_stride, kv_head_stride)
    gl.warp_specialize(
        [
            (_consumer, (0, given, starts_ptr, scale, own, ring, BN, DOCUMENTS, STAGES)),
            (_consumer, (1, given, starts_ptr, scale, own, ring, BN, DOCUMENTS, STAGES)),
            (_producer, (descs, tables, sizes, heads, own, ring, BN, DOCUMENTS, STAGES)),
        ],
        [4, 1],
        [REGISTERS, 24],
    )


@gluon.jit
def _producer(
    descs, tables, sizes, heads, own, ring, BN: gl.constexpr, DOCUMENTS: gl.constexpr, STAGES: gl.constexpr
):
    qn_desc, qr_desc, kn_desc, kr_desc, v_desc, do_desc = descs
    qn_head_stride, qr_head_stride, kv_head_stride = heads
    starts_ptr, taken_ptr = tables
    S, H, B = sizes
    qn_s, qr_s, do_s, tile_s, own_full, own_empty = own
    kn_s, kr_s, v_s, full, empty = ring
    stage = 0
    phase = 1
    own_phase = 1
    tile = gl.program_id(0)
    while tile < S // OWN * H * B:
        token, m0, head, first = announce_queries(
            tile, starts_ptr, S, H, tile_s, own_empty, own_phase, BN, DOCUMENTS
        )
        mbarrier.expect(own_full, OWN * (NOPE + ROPE + VALUE) * 2)
        of_queries = (head * qn_head_stride, head * qr_head_stride, head * VALUE)
        for wg in gl.static_range(2):
            at = token + m0 + wg * HALF
            load((qn_desc, qr_desc, do_desc), at, of_queries, own_full, (qn_s, qr_s, do_s), wg)
        of_keys = (head * kv_head_stride, 0, head * kv_head_stride)
        for n0 in range(first, m0 + OWN, BN):
            mbarrier.wait(empty.index(stage), phase)
            mbarrier.expect(full.index(stage), BN * (NOPE + ROPE + VALUE) * 2)
            load((kn_desc, kr_desc, v_desc), token + n0, of_keys, full.index(stage), (kn_s, kr_s, v_s), stage)
            stage, phase = following(stage, phase, STAGES)
        own_phase ^= 1
        tile = take(taken_ptr) + gl.num_programs(0)
    announce_end(tile_s, own_full, own_empty, own_phase)


@gluon.jit
def _begin(wg: gl.constexpr, own, ring, stage, phase, BN: gl.constexpr):
    """The scores of a block of keys, and what they owe of the output's gradient: three products."""
    qn_s, qr_s, do_s, _, _, _ = own
    kn_s, kr_s, v_s, full, _empty = ring
    mbarrier.wait(full.index(stage), phase)
    zero = gl.zeros([HALF, BN], gl.float32, accumulator(BN))
    kn = kn_s.index(stage).permute((1, 0))
    kr = kr_s.index(stage).permute((1, 0))
    v = v_s.index(stage).permute((1, 0))
    s = warpgroup_mma(qn_s.index(wg), kn, zero, use_acc=False, is_async=True)
    s = warpgroup_mma(qr_s.index(wg), kr, s, is_async=True)
    return s, warpgroup_mma(do_s.index(wg), v, zero, use_acc=False, is_async=True)


@gluon.jit
def _probabilities(s, n0, row, lse, starts_ptr, scale, BN: gl.constexpr, DOCUMENTS: gl.constexpr):
    p = gl.exp2(s * scale - gl.expand_dims(lse, 1))
    if is_cut(n0, row, starts_ptr, BN, DOCUMENTS):
        p = seen(p, 0.0, n0, row, starts_ptr, DOCUMENTS)
    return p


@gluon.jit
def _consumer(
    wg: gl.constexpr, given, starts_ptr, scale, own, ring,
    BN: gl.constexpr, DOCUMENTS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    of_rows: gl.constexpr = gl.SliceLayout(1, accumulator(BN))
    _, _, _, tile_s, own_full, own_empty = own
    kn_s, kr_s, _v_s, _full, empty = ring
    dqn_desc, dqr_desc, dq_s, lse_ptr, delta_ptr = given
    dtype: gl.constexpr = kn_s.dtype
    stage = 0
    phase = 0
    mbarrier.wait(own_full, 0)
    head = heard(tile_s.index(HEAD))
    while head >= 0:
        m0, first, end, starts = heard_queries(wg, tile_s, starts_ptr, DOCUMENTS)
        at = heard(tile_s.index(STATISTICS)) + m0 + gl.arange(0, HALF, of_rows)
        lse = gl.load(lse_ptr + at)
        delta = gl.expand_dims(gl.load(delta_ptr + at), 1)
        dqn = gl.zeros([HALF, NOPE], gl.float32, accumulator(NOPE))
        dqr = gl.zeros([HALF, ROPE], gl.float32, accumulator(ROPE))
        s, dp = _begin(wg, own, ring, stage, phase, BN)
        s = warpgroup_mma_wait(1, deps=(s,))
        p = _probabilities(s, first, m0, lse, starts, scale, BN, DOCUMENTS)
        dp = warpgroup_mma_wait(0, deps=(dp,))
        ds = to_16_bits(p * (dp - delta), dtype)
        for n0 in range(first + BN, end, BN):
            before = stage
            stage, phase = following(stage, phase, STAGES)
            s, dp = _begin(wg, own, ring, stage, phase, BN)
            dqn = warpgroup_mma(gl.convert_layout(ds, left(NOPE)), kn_s.index(before), dqn, is_async=True)
            dqr = warpgroup_mma(gl.convert_layout(ds, left(ROPE)), kr_s.index(before), dqr, is_async=True)
            s = warpgroup_mma_wait(3, deps=(s,))
            p = _probabilities(s, n0, m0, lse, starts, scale, BN, DOCUMENTS)
            dp = warpgroup_mma_wait(2, deps=(dp,))
            upcoming = to_16_bits(p * (dp - delta), dtype)
            dqn, dqr = warpgroup_mma_wait(0, deps=(dqn, dqr))
            mbarrier.arrive(empty.index(before), count=1)
            ds = upcoming
        token = heard(tile_s.index(ROW)) + m0
        next_phase = heard(tile_s.index(PHASE))
        # All scores are made: other queries may come.
        mbarrier.arrive(own_empty, count=1)
        dqn = warpgroup_mma(gl.convert_layout(ds, left(NOPE)), kn_s.index(stage), dqn, is_async=True)
        dqr = warpgroup_mma(gl.convert_layout(ds, left(ROPE)), kr_s.index(stage), dqr, is_async=True)
        dqn, dqr = warpgroup_mma_wait(0, deps=(dqn, dqr))
        mbarrier.arrive(empty.index(stage), count=1)
        stage, phase = following(stage, phase, STAGES)
        # Scores are in base 2, their gradients are not.
        store_halves(dqn_desc, (dqn * (scale * LN_2)).to(dtype), dq_s.index(wg), token, head * NOPE)
        store(dqr_desc, (dqr * (scale * LN_2)).to(dtype), dq_s.index(wg), token, head * ROPE)
        mbarrier.wait(own_full, next_phase)
        head = heard(tile_s.index(HEAD))
    tma.store_wait(0)
