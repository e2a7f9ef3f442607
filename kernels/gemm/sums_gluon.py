"""Sums over K of one tile: device code of the Hopper kernel's consumers.

Tensor cores add in less than float32, so a product starts from zero every 128 of K and is promoted: scaled
and added to float32 registers. That addition is what limits the kernel, so where it pays warpgroups have the
tensor cores in turns: while they have the product of one, the other adds up.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, warpgroup_mma, warpgroup_mma_wait

from .results_gluon import fetch


@gluon.jit
def following(stage, phase, STAGES: gl.constexpr, STEP: gl.constexpr = 1):
    """The stage STEP after ``stage``, and the phase of its barriers."""
    stage += STEP
    if stage >= STAGES:
        stage -= STAGES
        phase ^= 1
    return stage, phase


@gluon.constexpr_function
def _turn(action, wg):
    """Have 256 threads, both warpgroups', meet at barrier 8 or 9, which the compiler gives to nobody."""
    return f"{{.reg .pred due; setp.ne.b32 due, $1, 0; @due bar.{action} {8 + wg}, 256; mov.b32 $0, $1;}}"


@gluon.jit
def give_turn(wg: gl.constexpr, is_due):
    """Let the other warpgroup multiply. The first begins, so the second gives it a turn at the start."""
    giving: gl.constexpr = _turn("arrive", 1 - wg)
    gl.inline_asm_elementwise(giving, "=r,r", [is_due], gl.int32, is_pure=False, pack=1)


@gluon.jit
def _await_turn(wg: gl.constexpr, is_due):
    awaiting: gl.constexpr = _turn("sync", wg)
    gl.inline_asm_elementwise(awaiting, "=r,r", [is_due], gl.int32, is_pure=False, pack=1)


@gluon.jit
def _begin(wg: gl.constexpr, a, b, p, is_due, TURNS: gl.constexpr):
    """Begin p = a @ b, in turn if one is due; what p holds does not count."""
    if TURNS:
        _await_turn(wg, is_due)
    p = warpgroup_mma(a, b, p, use_acc=False, is_async=True)
    if TURNS:
        give_turn(wg, is_due)
    return p


@gluon.jit
def sums(
    wg: gl.constexpr,
    HALF: gl.constexpr,
    found,
    result,
    scales,
    size,
    ring,
    stage,
    phase,
    SCALES: gl.constexpr,
    KIND: gl.constexpr,
    BM: gl.constexpr,
    BN: gl.constexpr,
    ADD: gl.constexpr,
    STAGES: gl.constexpr,
    mma: gl.constexpr,
):
    """Two accumulators, one below the other or side by side, and the stage that comes next.

    Of HALF a tile both warpgroups sum up all rows, each every second block of K. If STAGES is even,
    each stage is always the same one's; else both must follow all, as every second phase of a barrier looks
    the same.

    Where columns have scales of their own too, promotion takes twice the instructions: those scales had
    better be read before the product begins, and turns at the tensor cores gain nothing but in halves.

    The partial sum of the second accumulator takes over the registers of the first one's, which the extra
    ``warpgroup_mma_wait`` makes visible to the compiler: without it, both live at once and spill.
    """
    A_PARTS: gl.constexpr = BM // 64
    B_PARTS: gl.constexpr = BN // 128
    DOWN: gl.constexpr = 0 if BM < BN else 1
    RIGHT: gl.constexpr = 1 - DOWN
    A0: gl.constexpr = 0 if HALF else wg * A_PARTS // 2
    STEP: gl.constexpr = 2 if HALF else 1
    ALONE: gl.constexpr = HALF and STAGES % 2 == 0
    EARLY: gl.constexpr = SCALES == "row_row"
    TURNS: gl.constexpr = HALF or not EARLY
    expert, row, column, first, blocks = found
    a_s, b_s, _sa_s, _sb_s, _upcoming_s, full, empty, _standing, _joined = ring
    own = _scale_rows(expert, row, column, scales, size, SCALES, RIGHT)
    zero = gl.zeros([64, 128], gl.float32, mma)
    acc0 = gl.zeros([64, 128], gl.float32, mma)
    acc1 = gl.zeros([64, 128], gl.float32, mma)
    start = first
    if HALF and wg == 1:
        start += 1
        if ALONE:
            stage, phase = following(stage, phase, STAGES)
        else:
            stage, phase = _pass_over(stage, phase, blocks > 0, full, empty, STAGES)
    for k in range(start, first + blocks, STEP):
        mbarrier.wait(full.index(stage), phase)
        a0 = a_s.index(stage * A_PARTS + A0)
        b0 = b_s.index(stage * B_PARTS).permute((1, 0))
        is_due = gl.to_tensor(1)
        if HALF and wg == 0:  # the other has no product beside the last of an odd number
            is_due = (k + 1 < first + blocks).to(gl.int32)
        if EARLY:
            factors = _both_scales(k, stage, own, scales, ring, A0, DOWN, SCALES, mma)
        p = _begin(wg, a0, b0, zero, is_due, TURNS)
        if not EARLY:
            factors = _both_scales(k, stage, own, scales, ring, A0, DOWN, SCALES, mma)
        down0, down1, across = factors
        p = warpgroup_mma_wait(0, deps=(p,))
        acc0 = _promote(acc0, p, down0, across, SCALES)
        acc0 = warpgroup_mma_wait(0, deps=(acc0,))
        a1 = a_s.index(stage * A_PARTS + A0 + DOWN)
        b1 = b_s.index(stage * B_PARTS + RIGHT).permute((1, 0))
        p = _begin(wg, a1, b1, p, is_due, TURNS)
        # What C holds arrives during the second half of the sum; by then the last result has left.
        if ADD and not HALF and k == first + blocks // 2:
            fetch(result, expert, row, column, size, KIND)
        p = warpgroup_mma_wait(0, deps=(p,))
        mbarrier.arrive(empty.index(stage), count=2 if ALONE else 1)
        acc1 = _promote(acc1, p, down1, across, SCALES)
        stage, phase = following(stage, phase, STAGES, STEP if ALONE else 1)
        if HALF and not ALONE:
            stage, phase = _pass_over(stage, phase, k + 1 < first + blocks, full, empty, STAGES)
    return acc0, acc1, stage, phase


@gluon.jit
def _pass_over(stage, phase, is_used, full, empty, STAGES: gl.constexpr):
    """Leave a stage to the other warpgroup."""
    mbarrier.wait(full.index(stage), phase, pred=is_used)
    mbarrier.arrive(empty.index(stage), count=1, pred=is_used)
    return following(stage, phase, STAGES)


@gluon.jit
def join(wg: gl.constexpr, acc0, acc1, ring, mma: gl.constexpr):
    """Of half a tile the accumulator that ``wg`` is to store, with what the other warpgroup has of it.

    They meet in the ring, which nothing else comes to: half a tile is the last of its block.
    """
    joined = ring[8].index(0)
    layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=32, rank=2)
    parts = ring[0]._reinterpret(gl.float32, [2, 64, 128], layout)
    mbarrier.arrive(joined, count=1)
    mbarrier.wait(joined, 0)
    own = acc0
    if wg == 0:
        parts.index(1).store(acc1)
    else:
        parts.index(0).store(acc0)
        own = acc1
    mbarrier.arrive(joined, count=1)
    mbarrier.wait(joined, 1)
    return own + parts.index(wg).load(mma)


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
def _both_scales(
    k, stage, own, scales, ring, A0: gl.constexpr, DOWN: gl.constexpr, SCALES: gl.constexpr, mma: gl.constexpr
):
    """Factors of the rows of both accumulators' products, and of the columns, which they share in tall tiles:
    where columns have scales of their own all tiles are tall, or square.
    """
    a_scale, b_scale0, b_scale1 = own
    down0, across = _scales(k, stage, a_scale, b_scale0, scales, ring, A0, SCALES, mma)
    down1, _ = _scales(k, stage, a_scale, b_scale1, scales, ring, A0 + DOWN, SCALES, mma)
    return down0, down1, across


@gluon.jit
def _scales(
    k,
    stage,
    a_scale,
    b_scale,
    scales,
    ring,
    part: gl.constexpr,
    SCALES: gl.constexpr,
    mma: gl.constexpr,
):
    """Factors of one partial product: for its rows (or all of it), and for its columns."""
    sa_ptr, sb_ptr, _, _, _, sb_stride_k = scales
    sa_s, sb_s = ring[2], ring[3]
    if SCALES == "block_block":
        down = gl.load(sa_ptr + a_scale + k) * gl.load(sb_ptr + b_scale + k)
        across = down
    else:
        down = sa_s.index(stage).slice(part * 64, 64).load(gl.SliceLayout(1, mma))
        across = down
        if SCALES == "row_block":
            down = down * gl.load(sb_ptr + b_scale + k * sb_stride_k)
        else:
            across = sb_s.index(stage).load(gl.SliceLayout(0, mma))
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
