"""Block-scaled FP8 products for Hopper, in Gluon: device code. ``launch_gluon`` calls it.

One kernel serves every product ``C = A @ B.T`` of E4M3 operands whose rows run along the summed dimension:

- SCALES says how operands are scaled. "row_block": A by 1x128 tiles, B by 128x128 blocks (fprop, dgrad).
  "row_row": both by 1x128 tiles (wgrad, recipe v3). "block_block": both by 128x128 blocks (wgrad, recipe
  shift).
- KIND says what is grouped. "dense": nothing. "rows": rows of A, each block of 128 with the B of its expert.
  "tokens": the summed dimension, a C for each expert.
- A tile of BM x BN is tall, 256x128, or wide, 128x256, or square, 128x128, which is half a tall one.

A launch takes up to ``tiles.LONGEST_LIST`` dense products, whose tiles are numbered one problem after the
other: small ones fill the card together. Each has a loop of its own, since to choose a descriptor for each
tile takes more registers than there are.

A thread block stays on its multiprocessor and works through tiles. They come in turns, but those of "tokens",
which differ in length: there each block takes the next one that nobody has. HALVES cuts the tiles of a last
turn that would leave half of the blocks idle. One warp, the producer, copies operands by TMA into a ring of
STAGES stages. Two warpgroups, the consumers, have two accumulators of 64x128 each: both halves of a tile, or
of half a tile two sums over every second block of K, which they then join (``sums_gluon``).
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from .results_gluon import standing_part, store
from .sums_gluon import following, give_turn, join, sums
from .tiles_gluon import announce, heard, measure, place, scale_strides, take


# Any of these may be 1, which must not make it a constant.
# fmt: off
@gluon.jit(do_not_specialize=("E", "sb_stride_expert", "sb_stride_n", "sb_stride_k"))
def block_scaled_gemm(
    a0, b0, c0, sa0, sb0, scales0,
    a1, b1, c1, sa1, sb1, scales1,
    a2, b2, c2, sa2, sb2, scales2,
    a3, b3, c3, sa3, sb3, scales3,
    a4, b4, c4, sa4, sb4, scales4,
    a5, b5, c5, sa5, sb5, scales5,
    a6, b6, c6, sa6, sb6, scales6,
    a7, b7, c7, sa7, sb7, scales7,
    offsets_ptr,
    expert_ptr,
    counts_ptr,
    E,
    sb_stride_expert,
    sb_stride_n,
    sb_stride_k,
    PROBLEMS: gl.constexpr,
    SCALES: gl.constexpr,
    KIND: gl.constexpr,
    BM: gl.constexpr,
    BN: gl.constexpr,
    ADD: gl.constexpr,
    STAGES: gl.constexpr,
    GROUP: gl.constexpr,
    PROGRAMS: gl.constexpr,
    HALVES: gl.constexpr,
    REGISTERS: gl.constexpr,
):
    """C [M, N] from A [M, K] and B [N, K]; for "tokens" C [E, M, N], for "rows" B [E, N, K].

    A line of arguments is a problem: descriptors of A, B, C and of the scales of A and B, and pointers to
    those scales and to C; the lines from PROBLEMS on are None. A tuple of descriptors cannot be launched. The
    strides are those of "row_block", of which there is one problem. ``counts_ptr`` is where tiles of "tokens"
    are counted, from zero. ADD adds to C in place of writing it: then C is float32 and no other problem's,
    since half of each tile is read and written.
    """
    # fmt: on
    a_s = gl.allocate_shared_memory(a0.dtype, [STAGES * BM // 64, 64, 128], a0.layout)
    b_s = gl.allocate_shared_memory(b0.dtype, [STAGES * BN // 128, 128, 128], b0.layout)
    # Scales of whole blocks are read as single numbers.
    sa_s = gl.allocate_shared_memory(
        gl.float32, [1 if SCALES == "block_block" else STAGES, BM], sa0.layout
    )
    sb_s = gl.allocate_shared_memory(gl.float32, [STAGES if SCALES == "row_row" else 1, BN], sb0.layout)
    c_s = gl.allocate_shared_memory(c0.dtype, [2, 64, 128], c0.layout)
    upcoming_s = gl.allocate_shared_memory(gl.int32, [STAGES, 1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    standing = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    joined = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    mbarrier.init(joined.index(0), count=2)
    for wg in gl.static_range(2):
        mbarrier.init(standing.index(wg), count=1)
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    as_ = (a0, a1, a2, a3, a4, a5, a6, a7)
    bs = (b0, b1, b2, b3, b4, b5, b6, b7)
    cs = (c0, c1, c2, c3, c4, c5, c6, c7)
    sas = (sa0, sa1, sa2, sa3, sa4, sa5, sa6, sa7)
    sbs = (sb0, sb1, sb2, sb3, sb4, sb5, sb6, sb7)
    pointers = (scales0, scales1, scales2, scales3, scales4, scales5, scales6, scales7)
    strides = (sb_stride_expert, sb_stride_n, sb_stride_k)
    ring = (a_s, b_s, sa_s, sb_s, upcoming_s, full, empty, standing, joined)
    tables = (offsets_ptr, expert_ptr, E, counts_ptr)
    # fmt: off
    gl.warp_specialize(
        [
            (_consumer, (0, as_, cs, c_s, pointers, strides, tables, ring,
                         PROBLEMS, SCALES, KIND, BM, BN, ADD, STAGES, GROUP, PROGRAMS, HALVES)),
            (_consumer, (1, as_, cs, c_s, pointers, strides, tables, ring,
                         PROBLEMS, SCALES, KIND, BM, BN, ADD, STAGES, GROUP, PROGRAMS, HALVES)),
            (_producer, (as_, bs, cs, sas, sbs, strides, tables, ring,
                         PROBLEMS, SCALES, KIND, BM, BN, STAGES, GROUP, PROGRAMS, HALVES)),
        ],
        [4, 1],
        [REGISTERS, 24],
    )
    # fmt: on


@gluon.jit
def _producer(
    a_descs,
    b_descs,
    c_descs,
    sa_descs,
    sb_descs,
    strides,
    tables,
    ring,
    PROBLEMS: gl.constexpr,
    SCALES: gl.constexpr,
    KIND: gl.constexpr,
    BM: gl.constexpr,
    BN: gl.constexpr,
    STAGES: gl.constexpr,
    GROUP: gl.constexpr,
    PROGRAMS: gl.constexpr,
    HALVES: gl.constexpr,
):
    """Keeps the ring full."""
    A_SCALE_BYTES: gl.constexpr = 0 if SCALES == "block_block" else BM * 4
    B_SCALE_BYTES: gl.constexpr = BN * 4 if SCALES == "row_row" else 0
    SCALE_BYTES: gl.constexpr = A_SCALE_BYTES + B_SCALE_BYTES
    a_s, b_s, sa_s, sb_s, upcoming_s, full, empty, _standing, _joined = ring
    stage = 0
    phase = 1
    tile = gl.program_id(0)
    for problem in gl.static_range(PROBLEMS):
        a_desc = a_descs[problem]
        b_desc = b_descs[problem]
        sa_desc = sa_descs[problem]
        sb_desc = sb_descs[problem]
        size, tiles = measure(a_desc, c_descs[problem], tables, PROBLEMS, KIND, BM, BN, PROGRAMS, HALVES)
        sa_stride, _, _, sb_stride_k = scale_strides(a_desc, size, strides, SCALES)
        while tile < tiles:
            found, whole = place(tile, tables, size, KIND, BM, BN, GROUP, PROGRAMS, HALVES)
            expert, row, column, first, blocks = found
            b_row = column
            if KIND == "rows":
                b_row += expert * size[1]
            upcoming = tile + PROGRAMS
            if KIND == "tokens":
                upcoming = take(tables[3]) + PROGRAMS
                if blocks == 0:  # a stage without operands, for what it says
                    mbarrier.wait(empty.index(stage), phase)
                    announce(upcoming_s.index(stage), upcoming)
                    mbarrier.arrive(full.index(stage), count=1)
                    stage, phase = following(stage, phase, STAGES)
            for k in range(first, first + blocks):
                mbarrier.wait(empty.index(stage), phase)
                bar = full.index(stage)
                if KIND == "tokens":
                    announce(upcoming_s.index(stage), upcoming)
                if HALVES:
                    mbarrier.expect(bar, (BM + BN) * 128 + SCALE_BYTES, pred=whole)
                    mbarrier.expect(bar, (BM // 2 + BN) * 128 + SCALE_BYTES, pred=whole == 0)
                else:
                    mbarrier.expect(bar, (BM + BN) * 128 + SCALE_BYTES)
                for i in gl.static_range(BM // 64):
                    a_part = a_s.index(stage * (BM // 64) + i)
                    needed = whole if HALVES and i >= BM // 128 else True
                    tma.async_copy_global_to_shared(a_desc, [row + i * 64, k * 128], bar, a_part, pred=needed)
                for i in gl.static_range(BN // 128):
                    b_part = b_s.index(stage * (BN // 128) + i)
                    tma.async_copy_global_to_shared(b_desc, [b_row + i * 128, k * 128], bar, b_part)
                if A_SCALE_BYTES:
                    tma.async_copy_global_to_shared(sa_desc, [k * sa_stride + row], bar, sa_s.index(stage))
                if B_SCALE_BYTES:
                    at = [k * sb_stride_k + column]
                    tma.async_copy_global_to_shared(sb_desc, at, bar, sb_s.index(stage))
                stage, phase = following(stage, phase, STAGES)
            tile = upcoming
        tile -= tiles


@gluon.jit
def _consumer(
    wg: gl.constexpr,
    a_descs,
    c_descs,
    c_s,
    pointers,
    strides,
    tables,
    ring,
    PROBLEMS: gl.constexpr,
    SCALES: gl.constexpr,
    KIND: gl.constexpr,
    BM: gl.constexpr,
    BN: gl.constexpr,
    ADD: gl.constexpr,
    STAGES: gl.constexpr,
    GROUP: gl.constexpr,
    PROGRAMS: gl.constexpr,
    HALVES: gl.constexpr,
):
    """Warpgroup ``wg``, which owns the upper or the lower rows of a tile."""
    DOWN: gl.constexpr = 64 if BM > BN else 0
    RIGHT: gl.constexpr = 0 if BM > BN else 128
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 1], instr_shape=[16, 128, 32])
    upcoming_s, full, empty, standing = ring[4], ring[5], ring[6], ring[7]
    stage = 0
    phase = 0
    standing_phase = 0
    tile = gl.program_id(0)
    if wg == 1:
        give_turn(wg, gl.to_tensor(1))
    for problem in gl.static_range(PROBLEMS):
        a_desc = a_descs[problem]
        c_desc = c_descs[problem]
        result = (c_desc, c_s.index(wg), standing.index(wg))
        size, tiles = measure(a_desc, c_desc, tables, PROBLEMS, KIND, BM, BN, PROGRAMS, HALVES)
        sa_stride, stride_expert, stride_n, stride_k = scale_strides(a_desc, size, strides, SCALES)
        scales = (pointers[problem][0], pointers[problem][1], sa_stride, stride_expert, stride_n, stride_k)
        while tile < tiles:
            found, whole = place(tile, tables, size, KIND, BM, BN, GROUP, PROGRAMS, HALVES)
            expert, row, column, first, blocks = found
            upcoming = tile + PROGRAMS
            if KIND == "tokens":
                mbarrier.wait(full.index(stage), phase)
                upcoming = heard(upcoming_s.index(stage))
                if blocks == 0:
                    mbarrier.arrive(empty.index(stage), count=1)
                    stage, phase = following(stage, phase, STAGES)
            if whole:
                row += wg * (BM // 2)
                found = (expert, row, column, first, blocks)
                acc0, acc1, stage, phase = sums(
                    wg, False, found, result, scales, size, ring, stage, phase,
                    SCALES, KIND, BM, BN, ADD, STAGES, mma,
                )  # fmt: skip
                # An expert without rows has nothing to add.
                if not ADD or blocks > 0:
                    if ADD:
                        acc0 += standing_part(result, standing_phase, mma)
                        standing_phase ^= 1
                    store(result, acc0, expert, row, column, size, KIND, False)
                    store(result, acc1, expert, row + DOWN, column + RIGHT, size, KIND, ADD)
            else:
                acc0, acc1, stage, phase = sums(
                    wg, True, found, result, scales, size, ring, stage, phase,
                    SCALES, KIND, BM, BN, ADD, STAGES, mma,
                )  # fmt: skip
                acc = join(wg, acc0, acc1, ring, mma)
                if blocks > 0:
                    store(result, acc, expert, row + wg * 64, column, size, KIND, ADD)
            tile = upcoming
        tile -= tiles
    tma.store_wait(0)
