"""Block-scaled FP8 products for Hopper, in Gluon: device code. ``launch_gluon`` calls it.

One kernel serves every product ``C = A @ B.T`` of E4M3 operands whose rows run along the summed dimension:

- SCALES says how operands are scaled. "row_block": A by 1x128 tiles, B by 128x128 blocks (fprop, dgrad).
  "row_row": both by 1x128 tiles (wgrad, recipe v3). "block_block": both by 128x128 blocks (wgrad, recipe
  shift).
- KIND says what is grouped. "dense": nothing. "rows": rows of A, each block of 128 with the B of its expert.
  "tokens": the summed dimension, a C for each expert.
- TALL chooses a tile of 256x128, otherwise it is 128x256.

A launch takes up to ``tiles.LONGEST_LIST`` dense products, whose tiles are numbered one problem after the
other: small ones fill the card together. Each has a loop of its own, since to choose a descriptor for each
tile takes more registers than there are.

A thread block stays on its multiprocessor and works through tiles. They come in turns, but those of "tokens",
which differ in length: there each block takes the next one that nobody has. In the last turn of a weight
gradient PARTS blocks share a tile and its summands, and add to it one after the other. One warp, the
producer, copies operands by TMA into a ring of STAGES stages; two warpgroups, the consumers, own two
accumulators of 64x128 each. Tensor cores add in less than float32, so a product starts from zero every 128 of
K and is promoted: scaled and added to float32 registers. That addition is what limits the kernel. The partial
sum of the second accumulator therefore takes over the registers of the first one's, which the extra
``warpgroup_mma_wait`` makes visible to the compiler: without it, both live at once and spill.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from triton._C.libtriton import ir
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language._core import builtin
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from .tiles_gluon import announce, await_parts, count_part, heard, measure, place, scale_strides, take


@builtin
def async_add_shared_to_global(tensor_desc, coord, src, _semantic=None):
    """Like ``tma.async_copy_shared_to_global``, but adds to what is there; Gluon has no name for it yet."""
    coord = _semantic._convert_to_ir_values(coord, require_i64=False)
    kind = ir.DESCRIPTOR_REDUCE_KIND.ADD
    _semantic.builder.create_async_tma_reduce(kind, tensor_desc.handle, coord, src.handle)


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
    TALL: gl.constexpr,
    ADD: gl.constexpr,
    STAGES: gl.constexpr,
    GROUP: gl.constexpr,
    PROGRAMS: gl.constexpr,
    PARTS: gl.constexpr,
    REGISTERS: gl.constexpr,
):
    """C [M, N] from A [M, K] and B [N, K]; for "tokens" C [E, M, N], for "rows" B [E, N, K].

    A line of arguments is a problem: descriptors of A, B, C and of the scales of A and B, and pointers to
    those scales and to C; the lines from PROBLEMS on are None. A tuple of descriptors cannot be launched. The
    strides are those of "row_block", of which there is one problem. ``counts_ptr`` is where tiles of "tokens"
    or parts of shared tiles are counted, from zero. ADD adds to C in place of writing it: then C is
    contiguous and no other problem's, since half of each tile is read and written.
    """
    # fmt: on
    BM: gl.constexpr = 256 if TALL else 128
    BN: gl.constexpr = 128 if TALL else 256
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
    ring = (a_s, b_s, sa_s, sb_s, upcoming_s, full, empty)
    tables = (offsets_ptr, expert_ptr, E, counts_ptr)
    # fmt: off
    gl.warp_specialize(
        [
            (_consumer, (0, as_, cs, c_s, pointers, strides, tables, ring,
                         PROBLEMS, SCALES, KIND, TALL, ADD, STAGES, GROUP, PROGRAMS, PARTS)),
            (_consumer, (1, as_, cs, c_s, pointers, strides, tables, ring,
                         PROBLEMS, SCALES, KIND, TALL, ADD, STAGES, GROUP, PROGRAMS, PARTS)),
            (_producer, (as_, bs, cs, sas, sbs, strides, tables, ring,
                         PROBLEMS, SCALES, KIND, TALL, STAGES, GROUP, PROGRAMS, PARTS)),
        ],
        [4, 1],
        [REGISTERS, 24],
    )
    # fmt: on


@gluon.jit
def _next(stage, phase, STAGES: gl.constexpr):
    stage += 1
    if stage == STAGES:
        stage = 0
        phase ^= 1
    return stage, phase


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
    TALL: gl.constexpr,
    STAGES: gl.constexpr,
    GROUP: gl.constexpr,
    PROGRAMS: gl.constexpr,
    PARTS: gl.constexpr,
):
    """Keeps the ring full."""
    BM: gl.constexpr = 256 if TALL else 128
    BN: gl.constexpr = 128 if TALL else 256
    A_SCALE_BYTES: gl.constexpr = 0 if SCALES == "block_block" else BM * 4
    B_SCALE_BYTES: gl.constexpr = BN * 4 if SCALES == "row_row" else 0
    a_s, b_s, sa_s, sb_s, upcoming_s, full, empty = ring
    stage = 0
    phase = 1
    tile = gl.program_id(0)
    for problem in gl.static_range(PROBLEMS):
        a_desc = a_descs[problem]
        b_desc = b_descs[problem]
        sa_desc = sa_descs[problem]
        sb_desc = sb_descs[problem]
        size, tiles = measure(a_desc, c_descs[problem], tables, KIND, TALL, PROGRAMS, PARTS)
        sa_stride, _, _, sb_stride_k = scale_strides(a_desc, size, strides, SCALES)
        while tile < tiles:
            found = place(tile, tables, size, KIND, TALL, GROUP, PROGRAMS, PARTS)
            expert, row, column, first, blocks, _, _ = found
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
                    stage, phase = _next(stage, phase, STAGES)
            for k in range(first, first + blocks):
                mbarrier.wait(empty.index(stage), phase)
                bar = full.index(stage)
                if KIND == "tokens":
                    announce(upcoming_s.index(stage), upcoming)
                mbarrier.expect(bar, (BM + BN) * 128 + A_SCALE_BYTES + B_SCALE_BYTES)
                for i in gl.static_range(BM // 64):
                    a_part = a_s.index(stage * (BM // 64) + i)
                    tma.async_copy_global_to_shared(a_desc, [row + i * 64, k * 128], bar, a_part)
                for i in gl.static_range(BN // 128):
                    b_part = b_s.index(stage * (BN // 128) + i)
                    tma.async_copy_global_to_shared(b_desc, [b_row + i * 128, k * 128], bar, b_part)
                if A_SCALE_BYTES:
                    tma.async_copy_global_to_shared(sa_desc, [k * sa_stride + row], bar, sa_s.index(stage))
                if B_SCALE_BYTES:
                    at = [k * sb_stride_k + column]
                    tma.async_copy_global_to_shared(sb_desc, at, bar, sb_s.index(stage))
                stage, phase = _next(stage, phase, STAGES)
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
    TALL: gl.constexpr,
    ADD: gl.constexpr,
    STAGES: gl.constexpr,
    GROUP: gl.constexpr,
    PROGRAMS: gl.constexpr,
    PARTS: gl.constexpr,
):
    """Warpgroup ``wg``: two accumulators, one below the other (TALL) or side by side."""
    A_PARTS: gl.constexpr = 4 if TALL else 2
    B_PARTS: gl.constexpr = 1 if TALL else 2
    DOWN: gl.constexpr = 1 if TALL else 0
    RIGHT: gl.constexpr = 0 if TALL else 1
    A0: gl.constexpr = wg * 2 if TALL else wg
    mma: gl.constexpr = gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 1], instr_shape=[16, 128, 32])
    a_s, b_s, _sa_s, sb_s, upcoming_s, full, empty = ring
    zero = gl.zeros([64, 128], gl.float32, mma)
    stage = 0
    phase = 0
    tile = gl.program_id(0)
    for problem in gl.static_range(PROBLEMS):
        c_desc = c_descs[problem]
        size, tiles = measure(a_descs[problem], c_desc, tables, KIND, TALL, PROGRAMS, PARTS)
        sa_stride, stride_expert, stride_n, stride_k = scale_strides(a_descs[problem], size, strides, SCALES)
        scales = (pointers[problem][0], pointers[problem][1], sa_stride, stride_expert, stride_n, stride_k)
        while tile < tiles:
            found = place(tile, tables, size, KIND, TALL, GROUP, PROGRAMS, PARTS)
            expert, row, column, first, blocks, part, shared = found
            row += A0 * 64
            a_scale, b_scale0, b_scale1 = _scale_rows(expert, row, column, scales, size, SCALES, RIGHT)
            acc0 = gl.zeros([64, 128], gl.float32, mma)
            acc1 = gl.zeros([64, 128], gl.float32, mma)
            upcoming = tile + PROGRAMS
            if KIND == "tokens":
                mbarrier.wait(full.index(stage), phase)
                upcoming = heard(upcoming_s.index(stage))
                if blocks == 0:
                    mbarrier.arrive(empty.index(stage), count=1)
                    stage, phase = _next(stage, phase, STAGES)
            for k in range(first, first + blocks):
                mbarrier.wait(full.index(stage), phase)
                a0 = a_s.index(stage * A_PARTS + A0)
                b0 = b_s.index(stage * B_PARTS).permute((1, 0))
                p = warpgroup_mma(a0, b0, zero, use_acc=False, is_async=True)
                down0, across0 = _scales(k, stage, a_scale, b_scale0, scales, ring, A0, 0, SCALES, mma)
                down1 = down0
                if SCALES != "row_row" or TALL:
                    down1, _ = _scales(k, stage, a_scale, b_scale1, scales, ring, A0 + DOWN, 0, SCALES, mma)
                p = warpgroup_mma_wait(0, deps=(p,))
                acc0 = _promote(acc0, p, down0, across0, SCALES)
                acc0 = warpgroup_mma_wait(0, deps=(acc0,))
                a1 = a_s.index(stage * A_PARTS + A0 + DOWN)
                b1 = b_s.index(stage * B_PARTS + RIGHT).permute((1, 0))
                p = warpgroup_mma(a1, b1, p, use_acc=False, is_async=True)
                across1 = across0
                if SCALES == "row_row" and RIGHT:
                    across1 = sb_s.index(stage).slice(128, 128).load(gl.SliceLayout(0, mma))
                p = warpgroup_mma_wait(0, deps=(p,))
                mbarrier.arrive(empty.index(stage), count=1)
                acc1 = _promote(acc1, p, down1, across1, SCALES)
                stage, phase = _next(stage, phase, STAGES)
            # An expert without rows has nothing to add.
            if not ADD or blocks > 0:
                c_part = c_s.index(wg)
                row1 = row + DOWN * 64
                column1 = column + RIGHT * 128
                if PARTS > 1 and part > 0:
                    await_parts(tables[3] + shared * 2 + wg, part)
                    _store(c_desc, c_part, acc0, expert, row, column, size, KIND, True)
                    _store(c_desc, c_part, acc1, expert, row1, column1, size, KIND, True)
                else:
                    if ADD:
                        acc0 += _standing(pointers[problem][2], expert, row, column, size, mma)
                    _store(c_desc, c_part, acc0, expert, row, column, size, KIND, False)
                    _store(c_desc, c_part, acc1, expert, row1, column1, size, KIND, ADD)
                if PARTS > 1 and shared >= 0:
                    count_part(tables[3] + shared * 2 + wg)
            tile = upcoming
        tile -= tiles
    tma.store_wait(0)


@gluon.jit
def _scale_rows(expert, row, column, scales, size, SCALES: gl.constexpr, RIGHT: gl.constexpr):
    """Where the block scales of a tile start: A's, and B's for either accumulator; a tile may hang over."""
    _, _, sa_stride, sb_stride_expert, sb_stride_n, _ = scales
    a_scale = 0
    if SCALES == "block_block":
        a_scale = gl.minimum(row, size[0] - 1) // 128 * sa_stride
    last = (size[1] - 1) // 128
    base = 0
    if SCALES == "row_block":
        base = expert * sb_stride_expert
    b_scale0 = base + column // 128 * sb_stride_n
    b_scale1 = base + gl.minimum(column // 128 + RIGHT, last) * sb_stride_n
    return a_scale, b_scale0, b_scale1


@gluon.jit
def _scales(
    k,
    stage,
    a_scale,
    b_scale,
    scales,
    ring,
    part: gl.constexpr,
    b_part: gl.constexpr,
    SCALES: gl.constexpr,
    mma: gl.constexpr,
):
    """Factors of one partial product: for its rows (or all of it), and for its columns."""
    sa_ptr, sb_ptr, _, _, _, sb_stride_k = scales
    _, _, sa_s, sb_s, _, _, _ = ring
    if SCALES == "block_block":
        down = gl.load(sa_ptr + a_scale + k) * gl.load(sb_ptr + b_scale + k)
        across = down
    else:
        down = sa_s.index(stage).slice(part * 64, 64).load(gl.SliceLayout(1, mma))
        across = down
        if SCALES == "row_block":
            down = down * gl.load(sb_ptr + b_scale + k * sb_stride_k)
        else:
            across = sb_s.index(stage).slice(b_part * 128, 128).load(gl.SliceLayout(0, mma))
    return down, across


@gluon.jit
def _promote(acc, p, down, across, SCALES: gl.constexpr):
    if SCALES == "block_block":
        acc += p * down
    elif SCALES == "row_block":
        acc += p * gl.expand_dims(down, 1)
    else:
        acc += (p * gl.expand_dims(down, 1)) * gl.expand_dims(across, 0)
    return acc


@gluon.jit
def _standing(c_ptr, expert, row, column, size, mma: gl.constexpr):
    """What a part of C holds before it is added to.

    Of the two parts of a tile one is read and written so, and the memory adds the other. Additions by TMA
    leave at a few bytes a clock: the first part's would be waited for, the second's leave while the next tile
    is multiplied.
    """
    m = row + gl.arange(0, 64, gl.SliceLayout(1, mma))
    n = column + gl.arange(0, 128, gl.SliceLayout(0, mma))
    start = (expert * size[0] + m).to(gl.int64) * size[1]
    inside = gl.expand_dims(m < size[0], 1) & gl.expand_dims(n < size[1], 0)
    return gl.load(c_ptr + (gl.expand_dims(start, 1) + gl.expand_dims(n, 0)), mask=inside, other=0.0)


@gluon.jit
def _store(c_desc, c_part, acc, expert, row, column, size, KIND: gl.constexpr, ADD: gl.constexpr):
    """Write or add an accumulator by TMA, which clips at the edges of C but does not know an expert's.

    A tile has one owner, so additions are deterministic.
    """
    tma.store_wait(0)
    c_part.store(acc.to(c_desc.dtype))
    fence_async_shared()
    if KIND == "tokens":
        # Experts have a multiple of 64 rows, so a part lies inside of one or is none of its.
        if row < size[0]:
            _send(c_desc, expert * size[0] + row, column, c_part, ADD)
    else:
        _send(c_desc, row, column, c_part, ADD)


@gluon.jit
def _send(c_desc, row, column, c_part, ADD: gl.constexpr):
    if ADD:
        async_add_shared_to_global(c_desc, [row, column], c_part)
    else:
        tma.async_copy_shared_to_global(c_desc, [row, column], c_part)
