"""The gradients of keys and values of latent attention, for Hopper in Gluon: device code.

``latent_gluon`` calls it. Scores stand with their keys down, so that probabilities and their gradients
multiply queries from registers. Two warpgroups keep all sums of 64 keys in 160 registers a thread each, and
the tensor cores may have the products of one while the other computes.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from ..gemm.sums_gluon import following
from ..gemm.tiles_gluon import announce, heard
from .blocks_gluon import (
    HALF,
    LN_2,
    NOPE,
    OWN,
    ROPE,
    VALUE,
    accumulator,
    barrier,
    barriers,
    left,
    load,
    store,
    store_quantized,
    to_16_bits,
)

CUT, MORE = gl.constexpr(1), gl.constexpr(2)
"""What the producer notes of a block of queries: some do not see all keys; another one follows."""


@gluon.jit
def latent_attention_backward_keys(
    qn_desc, qr_desc, kn_desc, kr_desc, v_desc, do_desc, lse_desc, delta_desc, starts_desc, dkv_desc,
    dkr_desc, scale_ptr, starts_ptr, ends_ptr,
    S, H, scale, qn_head_stride, qr_head_stride, kv_head_stride, scale_stride,
    BM: gl.constexpr, DOCUMENTS: gl.constexpr, QUANTIZE: gl.constexpr, STAGES: gl.constexpr,
    REGISTERS: gl.constexpr,
):  # fmt: skip
    """As ``latent_triton._latent_attention_backward_keys``; see ``forward_gluon``."""
    dtype: gl.constexpr = qn_desc.dtype
    kn_s = gl.allocate_shared_memory(dtype, [2, HALF, NOPE], kn_desc.layout)
    kr_s = gl.allocate_shared_memory(dtype, [2, HALF, ROPE], kr_desc.layout)
    v_s = gl.allocate_shared_memory(dtype, [2, HALF, VALUE], v_desc.layout)
    qn_s = gl.allocate_shared_memory(dtype, [STAGES, BM, NOPE], qn_desc.layout)
    qr_s = gl.allocate_shared_memory(dtype, [STAGES, BM, ROPE], qr_desc.layout)
    do_s = gl.allocate_shared_memory(dtype, [STAGES, BM, VALUE], do_desc.layout)
    lse_s = gl.allocate_shared_memory(gl.float32, [STAGES, BM], lse_desc.layout)
    delta_s = gl.allocate_shared_memory(gl.float32, [STAGES, BM], delta_desc.layout)
    starts_s = gl.allocate_shared_memory(gl.int32, [STAGES if DOCUMENTS else 1, BM], lse_desc.layout)
    notes_s = gl.allocate_shared_memory(gl.int32, [STAGES, 1], mbarrier.MBarrierLayout())
    ready = barrier()
    full, empty = barriers(STAGES)
    own = (kn_s, kr_s, v_s, ready)
    ring = (qn_s, qr_s, do_s, lse_s, delta_s, starts_s, notes_s, full, empty)
    descs = (qn_desc, qr_desc, kn_desc, kr_desc, v_desc, do_desc, lse_desc, delta_desc, starts_desc)
    bounds = (starts_ptr, ends_ptr)
    out = (dkv_desc, dkr_desc, scale_ptr, scale_stride)
    heads = (qn_head_stride, qr_head_stride, kv_head_stride)
    gl.warp_specialize(
        [
            (_consumer, (0, out, S, scale, own, ring, BM, DOCUMENTS, QUANTIZE, STAGES)),
            (_consumer, (1, out, S, scale, own, ring, BM, DOCUMENTS, QUANTIZE, STAGES)),
            (_producer, (descs, bounds, S, H, heads, own, ring, BM, DOCUMENTS, STAGES)),
        ],
        [4, 1],
        [REGISTERS, 24],
    )


@gluon.jit
def _producer(
    descs, bounds, S, H, heads, own, ring,
    BM: gl.constexpr, DOCUMENTS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    qn_desc, qr_desc, kn_desc, kr_desc, v_desc, do_desc, lse_desc, delta_desc, starts_desc = descs
    starts_ptr, ends_ptr = bounds
    qn_head_stride, qr_head_stride, kv_head_stride = heads
    kn_s, kr_s, v_s, ready = own
    qn_s, qr_s, do_s, lse_s, delta_s, starts_s, notes_s, full, empty = ring
    n0 = gl.program_id(0) * OWN
    head = gl.program_id(1)
    token = gl.program_id(2) * S
    mbarrier.expect(ready, OWN * (NOPE + ROPE + VALUE) * 2)
    of_keys = (head * kv_head_stride, 0, head * kv_head_stride)
    for wg in gl.static_range(2):
        load((kn_desc, kr_desc, v_desc), token + n0 + wg * HALF, of_keys, ready, (kn_s, kr_s, v_s), wg)
    stage = 0
    phase = 1
    of_queries = (head * qn_head_stride, head * qr_head_stride)
    statistics = (gl.program_id(2) * H + head) * S
    last = S
    if DOCUMENTS:
        # Whatever the tables hold, there is a block of queries to wait for.
        last = gl.maximum(gl.load(ends_ptr + token + n0 + OWN - 1), n0 + OWN)
    for m0 in range(n0, last, BM):
        mbarrier.wait(empty.index(stage), phase)
        bar = full.index(stage)
        cut = m0 < n0 + OWN
        if DOCUMENTS:
            cut = cut | (gl.load(starts_ptr + token + m0 + BM - 1) > n0)
        announce(notes_s.index(stage), cut.to(gl.int32) * CUT + (m0 + BM < last).to(gl.int32) * MORE)
        mbarrier.expect(bar, BM * (NOPE + ROPE + VALUE) * 2 + (3 if DOCUMENTS else 2) * BM * 4)
        load((qn_desc, qr_desc), token + m0, of_queries, bar, (qn_s, qr_s), stage)
        tma.async_copy_global_to_shared(lse_desc, [statistics + m0], bar, lse_s.index(stage))
        load((do_desc,), token + m0, (head * VALUE,), bar, (do_s,), stage)
        tma.async_copy_global_to_shared(delta_desc, [statistics + m0], bar, delta_s.index(stage))
        if DOCUMENTS:
            tma.async_copy_global_to_shared(starts_desc, [token + m0], bar, starts_s.index(stage))
        stage, phase = following(stage, phase, STAGES)


@gluon.jit
def _first_key():
    """Of a program, each time anew: whatever follows from it would be kept for the whole loop, and spill."""
    program = gl.program_id(0)
    program = gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [program], gl.int32, is_pure=False, pack=1)
    return program * OWN


@gluon.jit
def _seen(p, m0, starts, wg: gl.constexpr, BM: gl.constexpr, DOCUMENTS: gl.constexpr):
    """p, and zero where a query does not see a key."""
    scores: gl.constexpr = accumulator(BM)
    n = gl.expand_dims(_first_key() + wg * HALF + gl.arange(0, HALF, gl.SliceLayout(1, scores)), 1)
    visible = n <= gl.expand_dims(m0 + gl.arange(0, BM, gl.SliceLayout(0, scores)), 0)
    if DOCUMENTS:
        visible = visible & (n >= gl.expand_dims(starts.load(gl.SliceLayout(0, scores)), 0))
    return gl.where(visible, p, 0.0)


@gluon.jit
def _consumer(
    wg: gl.constexpr, out, S, scale, own, ring,
    BM: gl.constexpr, DOCUMENTS: gl.constexpr, QUANTIZE: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    scores: gl.constexpr = accumulator(BM)
    kn_s, kr_s, v_s, ready = own
    qn_s, qr_s, do_s, lse_s, delta_s, starts_s, notes_s, full, empty = ring
    dtype: gl.constexpr = kn_s.dtype
    dkn = gl.zeros([HALF, NOPE], gl.float32, accumulator(NOPE))
    dkr = gl.zeros([HALF, ROPE], gl.float32, accumulator(ROPE))
    dv = gl.zeros([HALF, VALUE], gl.float32, accumulator(VALUE))
    zero = gl.zeros([HALF, BM], gl.float32, scores)
    mbarrier.wait(ready, 0)
    m0 = gl.program_id(0) * OWN
    more = True
    while more:
        block = (m0 - _first_key()) // BM
        stage = block % STAGES
        mbarrier.wait(full.index(stage), block // STAGES % 2)
        qn = qn_s.index(stage)
        qr = qr_s.index(stage)
        do = do_s.index(stage)
        s = warpgroup_mma(kn_s.index(wg), qn.permute((1, 0)), zero, use_acc=False, is_async=True)
        s = warpgroup_mma(kr_s.index(wg), qr.permute((1, 0)), s, is_async=True)
        lse = lse_s.index(stage).load(gl.SliceLayout(0, scores))
        s = warpgroup_mma_wait(0, deps=(s,))
        p = gl.exp2(s * scale - gl.expand_dims(lse, 0))
        if heard(notes_s.index(stage)) % MORE == CUT:
            p = _seen(p, m0, starts_s.index(stage if DOCUMENTS else 0), wg, BM, DOCUMENTS)
        p = to_16_bits(p, dtype)
        # What each softmax takes off is where its sum begins.
        delta = delta_s.index(stage).load(gl.SliceLayout(0, scores))
        dp = zero - gl.expand_dims(delta, 0)
        dp = warpgroup_mma(v_s.index(wg), do.permute((1, 0)), dp, is_async=True)
        dv = warpgroup_mma(gl.convert_layout(p, left(VALUE)), do, dv, is_async=True)
        # p among them, or it would be unpacked before there are registers for it.
        dp, p = warpgroup_mma_wait(1, deps=(dp, p))
        ds = to_16_bits(p.to(gl.float32) * dp, dtype)
        dkn = warpgroup_mma(gl.convert_layout(ds, left(NOPE)), qn, dkn, is_async=True)
        dkr = warpgroup_mma(gl.convert_layout(ds, left(ROPE)), qr, dkr, is_async=True)
        dkn, dkr, dv = warpgroup_mma_wait(0, deps=(dkn, dkr, dv))
        more = heard(notes_s.index(stage)) >= MORE
        mbarrier.arrive(empty.index(stage), count=1)
        m0 += BM

    dkv_desc, dkr_desc, scale_ptr, scale_stride = out
    head = gl.program_id(1)
    token = gl.program_id(2) * S + _first_key() + wg * HALF
    at = head * (NOPE + VALUE)
    # Scores are in base 2, their gradients are not.
    dkn = (dkn * (scale * LN_2)).to(dtype)
    dv = dv.to(dtype)
    if QUANTIZE:
        scales = scale_ptr + 2 * head.to(gl.int64) * scale_stride
        store_quantized(dkv_desc, scales, dkn, kn_s.index(wg), token, at, NOPE)
        store_quantized(dkv_desc, scales + scale_stride, dv, v_s.index(wg), token, at + NOPE, VALUE)
    else:
        store(dkv_desc, dkn, kn_s.index(wg), token, at)
        store(dkv_desc, dv, v_s.index(wg), token, at + NOPE)
    store(dkr_desc, (dkr * (scale * LN_2)).to(dtype), kr_s.index(wg), token, head * ROPE)
    tma.store_wait(0)
