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

from ..gemm.tiles_gluon import anew, announce, heard, take
from .blocks_gluon import (
    FIRST,
    HALF,
    HEAD,
    LN_2,
    NOPE,
    OWN,
    PHASE,
    ROPE,
    ROW,
    VALUE,
    accumulator,
    announce_end,
    announce_tile,
    barriers,
    left,
    load,
    notes,
    place,
    store_halves,
    store_quantized,
    to_16_bits,
    within,
)

CUT, MORE, BEHIND = gl.constexpr(1), gl.constexpr(2), gl.constexpr(4)
"""What the producer notes of a block of queries: whether some do not see all keys; whether another block
follows; and as many fours as its first query is behind the tile's first key."""


@gluon.jit(do_not_specialize=("H", "B"))
def latent_attention_backward_keys(
    qn_desc, qr_desc, kn_desc, kr_desc, v_desc, do_desc, lse_desc, delta_desc, starts_desc, dkv_desc,
    dkr_ptr, scale_ptr, starts_ptr, ends_ptr, taken_ptr,
    S, H, B, scale, qn_head_stride, qr_head_stride, kv_head_stride, scale_stride,
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
    result_s = gl.allocate_shared_memory(dtype, [2, HALF, HALF], do_desc.layout)
    tile_s = notes()
    own_full, own_empty = barriers(1)
    full, empty = barriers(STAGES)
    own = (kn_s, kr_s, v_s, tile_s, own_full.index(0), own_empty.index(0))
    ring = (qn_s, qr_s, do_s, lse_s, delta_s, starts_s, notes_s, full, empty)
    descs = (qn_desc, qr_desc, kn_desc, kr_desc, v_desc, do_desc, lse_desc, delta_desc, starts_desc)
    tables = (starts_ptr, ends_ptr, taken_ptr)
    sizes = (S, H, B)
    out = (dkv_desc, dkr_ptr, H, result_s, scale_ptr, scale_stride)
    heads = (qn_head_stride, qr_head_stride, kv_head_stride)
    gl.warp_specialize(
        [
            (_consumer, (0, out, scale, own, ring, BM, DOCUMENTS, QUANTIZE, STAGES)),
            (_consumer, (1, out, scale, own, ring, BM, DOCUMENTS, QUANTIZE, STAGES)),
            (_producer, (descs, tables, sizes, heads, own, ring, BM, DOCUMENTS, STAGES)),
        ],
        [4, 1],
        [REGISTERS, 24],
    )


@gluon.jit
def _producer(
    descs, tables, sizes, heads, own, ring,
    BM: gl.constexpr, DOCUMENTS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    qn_desc, qr_desc, kn_desc, kr_desc, v_desc, do_desc, lse_desc, delta_desc, starts_desc = descs
    starts_ptr, ends_ptr, taken_ptr = tables
    S, H, B = sizes
    qn_head_stride, qr_head_stride, kv_head_stride = heads
    kn_s, kr_s, v_s, tile_s, own_full, own_empty = own
    qn_s, qr_s, do_s, lse_s, delta_s, starts_s, notes_s, full, empty = ring
    sent = 0
    own_phase = 1
    tile = gl.program_id(0)
    while tile < S // OWN * H * B:
        # The first keys of a row are seen by most queries, and go first.
        block, head, row = place(tile, S, H)
        n0 = block * OWN
        token = row * S
        mbarrier.wait(own_empty, own_phase)
        announce_tile(tile_s, (token, n0, head, own_phase))
        mbarrier.expect(own_full, OWN * (NOPE + ROPE + VALUE) * 2)
        of_keys = (head * kv_head_stride, 0, head * kv_head_stride)
        for wg in gl.static_range(2):
            at = token + n0 + wg * HALF
            load((kn_desc, kr_desc, v_desc), at, of_keys, own_full, (kn_s, kr_s, v_s), wg)
        statistics = (row * H + head) * S
        last = S
        if DOCUMENTS:
            # Whatever the tables hold, there is a block of queries to wait for.
            last = gl.minimum(gl.maximum(gl.load(ends_ptr + token + n0 + OWN - 1), n0 + OWN), S)
        for m0 in range(n0, last, BM):
            stage = sent % STAGES
            mbarrier.wait(empty.index(stage), sent // STAGES % 2 ^ 1)
            bar = full.index(stage)
            cut = m0 < n0 + OWN
            if DOCUMENTS:
                cut = cut | (gl.load(starts_ptr + token + m0 + BM - 1) > n0)
            note = cut.to(gl.int32) * CUT + (m0 + BM < last).to(gl.int32) * MORE
            announce(notes_s.index(stage), note + (m0 - n0) * BEHIND)
            mbarrier.expect(bar, BM * (NOPE + ROPE + VALUE) * 2 + (3 if DOCUMENTS else 2) * BM * 4)
            at_head = anew(head)
            of_queries = (at_head * qn_head_stride, at_head * qr_head_stride)
            load((qn_desc, qr_desc), token + m0, of_queries, bar, (qn_s, qr_s), stage)
            tma.async_copy_global_to_shared(lse_desc, [statistics + m0], bar, lse_s.index(stage))
            load((do_desc,), token + m0, (at_head * VALUE,), bar, (do_s,), stage)
            tma.async_copy_global_to_shared(delta_desc, [statistics + m0], bar, delta_s.index(stage))
            if DOCUMENTS:
                tma.async_copy_global_to_shared(starts_desc, [token + m0], bar, starts_s.index(stage))
            sent += 1
        own_phase ^= 1
        tile = take(taken_ptr) + gl.num_programs(0)
    announce_end(tile_s, own_full, own_empty, own_phase)


@gluon.jit
def _seen(s, behind, n0, starts, wg: gl.constexpr, DOCUMENTS: gl.constexpr):
    """Scores s, -inf where a query does not see a key; its first query is so far behind the first key n0."""
    n = wg * HALF + gl.arange(0, HALF, gl.SliceLayout(1, s.type.layout))
    if DOCUMENTS:
        start = starts.load(gl.SliceLayout(0, s.type.layout)) - n0
        s = gl.where(gl.expand_dims(n, 1) >= gl.expand_dims(start, 0), s, float("-inf"))
    return within(s, behind, n, None, float("-inf"))


@gluon.jit
def _store_directly(ptr, x, row, column, stride):
    """Write 64 rows from registers: to stage one more shape takes addresses that are kept for all tiles."""
    rows = row + gl.arange(0, HALF, gl.SliceLayout(1, x.type.layout))
    columns = column + gl.arange(0, x.shape[1], gl.SliceLayout(0, x.type.layout))
    gl.store(ptr + gl.expand_dims(rows.to(gl.int64) * stride, 1) + gl.expand_dims(columns, 0), x)


@gluon.jit
def _consumer(
    wg: gl.constexpr, out, scale, own, ring,
    BM: gl.constexpr, DOCUMENTS: gl.constexpr, QUANTIZE: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    scores: gl.constexpr = accumulator(BM)
    kn_s, kr_s, v_s, tile_s, own_full, own_empty = own
    qn_s, qr_s, do_s, lse_s, delta_s, starts_s, notes_s, full, empty = ring
    dkv_desc, dkr_ptr, H, result_s, scale_ptr, scale_stride = out
    dtype: gl.constexpr = kn_s.dtype
    passed = 0
    mbarrier.wait(own_full, 0)
    while heard(tile_s.index(HEAD)) >= 0:
        dkn = gl.zeros([HALF, NOPE], gl.float32, accumulator(NOPE))
        dkr = gl.zeros([HALF, ROPE], gl.float32, accumulator(ROPE))
        dv = gl.zeros([HALF, VALUE], gl.float32, accumulator(VALUE))
        zero = gl.zeros([HALF, BM], gl.float32, scores)
        more = True
        while more:
            stage = passed % STAGES
            slot = anew(gl.to_tensor(wg))
            mbarrier.wait(full.index(stage), passed // STAGES % 2)
            qn = qn_s.index(stage)
            qr = qr_s.index(stage)
            do = do_s.index(stage)
            s = warpgroup_mma(kn_s.index(slot), qn.permute((1, 0)), zero, use_acc=False, is_async=True)
            s = warpgroup_mma(kr_s.index(slot), qr.permute((1, 0)), s, is_async=True)
            lse = lse_s.index(stage).load(gl.SliceLayout(0, scores))
            s = warpgroup_mma_wait(0, deps=(s,))
            note = heard(notes_s.index(stage))
            s = s * scale - gl.expand_dims(lse, 0)
            if note % MORE == CUT:
                n0 = heard(tile_s.index(FIRST)) if DOCUMENTS else 0
                starts = starts_s.index(stage if DOCUMENTS else 0)
                s = _seen(s, note // BEHIND, n0, starts, wg, DOCUMENTS)
            p = to_16_bits(gl.exp2(s), dtype)
            # Addresses of operands, again.
            stage = anew(passed) % STAGES
            qn = qn_s.index(stage)
            qr = qr_s.index(stage)
            do = do_s.index(stage)
            # What each softmax takes off is where its sum begins.
            delta = delta_s.index(stage).load(gl.SliceLayout(0, scores))
            dp = zero - gl.expand_dims(delta, 0)
            dp = warpgroup_mma(v_s.index(slot), do.permute((1, 0)), dp, is_async=True)
            dv = warpgroup_mma(gl.convert_layout(p, left(VALUE)), do, dv, is_async=True)
            # p among them, or it would be unpacked before there are registers for it.
            dp, p = warpgroup_mma_wait(1, deps=(dp, p))
            ds = to_16_bits(p.to(gl.float32) * dp, dtype)
            dkn = warpgroup_mma(gl.convert_layout(ds, left(NOPE)), qn, dkn, is_async=True)
            dkr = warpgroup_mma(gl.convert_layout(ds, left(ROPE)), qr, dkr, is_async=True)
            dkn, dkr, dv = warpgroup_mma_wait(0, deps=(dkn, dkr, dv))
            # Once more, as a note that is kept would take a register.
            more = heard(notes_s.index(stage)) % BEHIND >= MORE
            mbarrier.arrive(empty.index(stage), count=1)
            passed += 1
        token = heard(tile_s.index(ROW)) + heard(tile_s.index(FIRST)) + wg * HALF
        head = heard(tile_s.index(HEAD))
        next_phase = heard(tile_s.index(PHASE))
        # All products are made: other keys may come.
        mbarrier.arrive(own_empty, count=1)
        # Scores are in base 2, their gradients are not.
        _store_directly(dkr_ptr, (dkr * (scale * LN_2)).to(dtype), token, head * ROPE, H * ROPE)
        dkn = (dkn * (scale * LN_2)).to(dtype)
        dv = dv.to(dtype)
        result = result_s.index(anew(gl.to_tensor(wg)))
        at = head * (NOPE + VALUE)
        if QUANTIZE:
            scales = scale_ptr + (2 * head).to(gl.int64) * scale_stride
            store_quantized(dkv_desc, scales, dkn, result, token, at)
            store_quantized(dkv_desc, scales + scale_stride, dv, result, token, at + NOPE)
        else:
            store_halves(dkv_desc, dkn, result, token, at)
            store_halves(dkv_desc, dv, result, token, at + NOPE)
        mbarrier.wait(own_full, next_phase)
    tma.store_wait(0)
