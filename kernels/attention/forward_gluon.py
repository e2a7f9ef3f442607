"""The output of latent attention, for Hopper in Gluon: device code. ``latent_gluon`` calls it.

While the tensor cores multiply the probabilities of one block of keys by its values and the queries by the
next block of keys, a warpgroup computes the softmax of the latter.

J. Shah et al., "FlashAttention-3: fast and accurate attention with asynchrony and low-precision", section 3.
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
    store_halves,
    store_quantized,
    to_16_bits,
)


# Sizes that are sometimes 1 or a multiple of 16, which would make other kernels.
@gluon.jit(do_not_specialize=("H", "B"))
def latent_attention_forward(
    qn_desc, qr_desc, kn_desc, kr_desc, v_desc, o_desc, data_desc, lse_ptr, scale_ptr, starts_ptr, taken_ptr,
    S, H, B, scale, qn_head_stride, qr_head_stride, kv_head_stride, scale_stride,
    BN: gl.constexpr, DOCUMENTS: gl.constexpr, QUANTIZE: gl.constexpr, STAGES: gl.constexpr,
    REGISTERS: gl.constexpr,
):  # fmt: skip
    """As ``latent_triton._latent_attention_forward``; descriptors lead to tokens of all rows of a batch, and
    ``qn_head_stride`` and the like are elements from one head to the next. ``taken_ptr`` is where tiles are
    counted, from zero.
    """
    dtype: gl.constexpr = qn_desc.dtype
    qn_s = gl.allocate_shared_memory(dtype, [2, HALF, NOPE], qn_desc.layout)
    qr_s = gl.allocate_shared_memory(dtype, [2, HALF, ROPE], qr_desc.layout)
    kn_s = gl.allocate_shared_memory(dtype, [STAGES, BN, NOPE], kn_desc.layout)
    kr_s = gl.allocate_shared_memory(dtype, [STAGES, BN, ROPE], kr_desc.layout)
    v_s = gl.allocate_shared_memory(dtype, [STAGES, BN, VALUE], v_desc.layout)
    o_s = gl.allocate_shared_memory(dtype, [2, HALF, HALF], o_desc.layout)
    tile_s = notes()
    q_full, q_empty = barriers(1)
    k_full, k_empty = barriers(STAGES)
    v_full, v_empty = barriers(STAGES)
    own = (qn_s, qr_s, tile_s, q_full.index(0), q_empty.index(0))
    keys = (kn_s, kr_s, k_full, k_empty)
    values = (v_s, v_full, v_empty)
    descs = (qn_desc, qr_desc, kn_desc, kr_desc, v_desc)
    out = (o_desc, data_desc, o_s, lse_ptr, scale_ptr, scale_stride)
    tables = (starts_ptr, taken_ptr)
    sizes = (S, H, B)
    heads = (qn_head_stride, qr_head_stride, kv_head_stride)
    # fmt: off
    gl.warp_specialize(
        [
            (_consumer, (0, out, starts_ptr, scale, own, keys, values, BN, DOCUMENTS, QUANTIZE, STAGES)),
            (_consumer, (1, out, starts_ptr, scale, own, keys, values, BN, DOCUMENTS, QUANTIZE, STAGES)),
            (_producer, (descs, tables, sizes, heads, own, keys, values, BN, DOCUMENTS, STAGES)),
        ],
        [4, 1],
        [REGISTERS, 24],
    )
    # fmt: on


@gluon.jit
def _producer(
    descs, tables, sizes, heads, own, keys, values,
    BN: gl.constexpr, DOCUMENTS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    qn_desc, qr_desc, kn_desc, kr_desc, v_desc = descs
    qn_head_stride, qr_head_stride, kv_head_stride = heads
    starts_ptr, taken_ptr = tables
    S, H, B = sizes
    qn_s, qr_s, tile_s, q_full, q_empty = own
    kn_s, kr_s, k_full, k_empty = keys
    v_s, v_full, v_empty = values
    stage = 0
    phase = 1
    q_phase = 1
    tile = gl.program_id(0)
    while tile < S // OWN * H * B:
        token, m0, head, first = announce_queries(
            tile, starts_ptr, S, H, tile_s, q_empty, q_phase, BN, DOCUMENTS
        )
        mbarrier.expect(q_full, OWN * (NOPE + ROPE) * 2)
        of_queries = (head * qn_head_stride, head * qr_head_stride)
        for wg in gl.static_range(2):
            load((qn_desc, qr_desc), token + m0 + wg * HALF, of_queries, q_full, (qn_s, qr_s), wg)
        of_keys = (head * kv_head_stride, 0)
        for n0 in range(first, m0 + OWN, BN):
            mbarrier.wait(k_empty.index(stage), phase)
            mbarrier.expect(k_full.index(stage), BN * (NOPE + ROPE) * 2)
            load((kn_desc, kr_desc), token + n0, of_keys, k_full.index(stage), (kn_s, kr_s), stage)
            mbarrier.wait(v_empty.index(stage), phase)
            mbarrier.expect(v_full.index(stage), BN * VALUE * 2)
            load((v_desc,), token + n0, (head * kv_head_stride,), v_full.index(stage), (v_s,), stage)
            stage, phase = following(stage, phase, STAGES)
        q_phase ^= 1
        tile = take(taken_ptr) + gl.num_programs(0)
    announce_end(tile_s, q_full, q_empty, q_phase)


@gluon.jit
def _begin_scores(wg: gl.constexpr, own, keys, stage, phase, BN: gl.constexpr):
    qn_s, qr_s, _, _, _ = own
    kn_s, kr_s, k_full, _k_empty = keys
    mbarrier.wait(k_full.index(stage), phase)
    kn = kn_s.index(stage).permute((1, 0))
    kr = kr_s.index(stage).permute((1, 0))
    s = gl.zeros([HALF, BN], gl.float32, accumulator(BN))
    s = warpgroup_mma(qn_s.index(wg), kn, s, use_acc=False, is_async=True)
    return warpgroup_mma(qr_s.index(wg), kr, s, is_async=True)


@gluon.jit
def _softmax(s, n0, row, largest, total, starts_ptr, scale, BN: gl.constexpr, DOCUMENTS: gl.constexpr):
    """Online, in base 2: probabilities to the largest score so far, and what earlier ones shrink by."""
    if is_cut(n0, row, starts_ptr, BN, DOCUMENTS):
        s = seen(s, float("-inf"), n0, row, starts_ptr, DOCUMENTS)
    new = gl.maximum(largest, gl.max(s, 1) * scale)
    # Of a query that has seen no key yet, any finite number.
    base = gl.where(new == float("-inf"), 0.0, new)
    p = gl.exp2(s * scale - gl.expand_dims(base, 1))
    shrink = gl.exp2(largest - base)
    return p, shrink, new, total * shrink + gl.sum(p, 1)


@gluon.jit
def _consumer(
    wg: gl.constexpr, out, starts_ptr, scale, own, keys, values,
    BN: gl.constexpr, DOCUMENTS: gl.constexpr, QUANTIZE: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    of_rows: gl.constexpr = gl.SliceLayout(1, accumulator(BN))
    of_output: gl.constexpr = gl.SliceLayout(1, accumulator(VALUE))
    _, _, tile_s, q_full, q_empty = own
    k_empty = keys[3]
    v_s, v_full, v_empty = values
    o_desc, data_desc, o_s, lse_ptr, scale_ptr, scale_stride = out
    dtype: gl.constexpr = v_s.dtype
    stage = 0
    phase = 0
    mbarrier.wait(q_full, 0)
    head = heard(tile_s.index(HEAD))
    while head >= 0:
        m0, first, end, starts = heard_queries(wg, tile_s, starts_ptr, DOCUMENTS)
        acc = gl.zeros([HALF, VALUE], gl.float32, accumulator(VALUE))
        largest = gl.full([HALF], float("-inf"), gl.float32, of_rows)
        total = gl.zeros([HALF], gl.float32, of_rows)
        s = _begin_scores(wg, own, keys, stage, phase, BN)
        s = warpgroup_mma_wait(0, deps=(s,))
        mbarrier.arrive(k_empty.index(stage), count=1)
        p, shrink, largest, total = _softmax(
            s, first, m0, largest, total, starts, scale, BN, DOCUMENTS
        )  # fmt: skip
        p = gl.convert_layout(to_16_bits(p, dtype), left(VALUE))
        for n0 in range(first + BN, end, BN):
            before = stage
            phase_before = phase
            stage, phase = following(stage, phase, STAGES)
            s = _begin_scores(wg, own, keys, stage, phase, BN)
            mbarrier.wait(v_full.index(before), phase_before)
            acc = warpgroup_mma(p, v_s.index(before), acc, is_async=True)
            s = warpgroup_mma_wait(1, deps=(s,))
            mbarrier.arrive(k_empty.index(stage), count=1)
            upcoming, shrink, largest, total = _softmax(
                s, n0, m0, largest, total, starts, scale, BN, DOCUMENTS
            )  # fmt: skip
            acc = warpgroup_mma_wait(0, deps=(acc,))
            mbarrier.arrive(v_empty.index(before), count=1)
            acc = acc * gl.expand_dims(gl.convert_layout(shrink, of_output), 1)
            p = gl.convert_layout(to_16_bits(upcoming, dtype), left(VALUE))
        token = heard(tile_s.index(ROW)) + m0
        statistics = heard(tile_s.index(STATISTICS)) + m0
        next_phase = heard(tile_s.index(PHASE))
        # All scores are made: other queries may come.
        mbarrier.arrive(q_empty, count=1)
        mbarrier.wait(v_full.index(stage), phase)
        acc = warpgroup_mma(p, v_s.index(stage), acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=(acc,))
        mbarrier.arrive(v_empty.index(stage), count=1)
        stage, phase = following(stage, phase, STAGES)

        gl.store(lse_ptr + statistics + gl.arange(0, HALF, of_rows), largest + gl.log2(total))
        o = (acc / gl.expand_dims(gl.convert_layout(total, of_output), 1)).to(dtype)
        store_halves(o_desc, o, o_s.index(wg), token, head * VALUE)
        if QUANTIZE:
            scales = scale_ptr + head.to(gl.int64) * scale_stride
            store_quantized(data_desc, scales, o, o_s.index(wg), token, head * VALUE)
        mbarrier.wait(q_full, next_phase)
        head = heard(tile_s.index(HEAD))
    tma.store_wait(0)
