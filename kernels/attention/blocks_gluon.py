"""What the Hopper kernels of latent attention share: device code.

A tile is 128 rows of one head, queries or keys, which stay in shared memory while they are worked on. A
program stays on its multiprocessor and takes the next tile that nobody has. One warp, the producer, copies a
tile's rows by TMA, and into a ring the blocks of keys or queries that they meet; two warpgroups, the
consumers, have 64 of the rows each. Rows of a batch are a multiple of 128 long, so that no block hangs over.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from ..gemm.tiles_gluon import announce, heard
from ..quantize.numbers_gluon import finite, power_of_two_scale

NOPE, ROPE, VALUE = gl.constexpr(128), gl.constexpr(64), gl.constexpr(128)
"""Features of a head: its own of queries and keys, rotated ones, and of values."""
OWN, HALF = gl.constexpr(128), gl.constexpr(64)
"""Rows of a tile and of a warpgroup."""
LN_2 = gl.constexpr(0.6931471805599453)
ROW, FIRST, HEAD, PHASE, STATISTICS, MET = (gl.constexpr(i) for i in range(6))
"""What the producer notes of a tile: the token where its row of the batch begins; its first token in that
row; its head, or -1 where no tile is left; the phase in which the next one comes; where statistics of its row
and head begin; the first key that it meets."""
BYTES = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8, rank=2))


@gluon.constexpr_function
def accumulator(columns):
    """The layout of 64 rows that a warpgroup sums up."""
    return gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 1], instr_shape=[16, columns, 16])


@gluon.constexpr_function
def left(columns):
    """That of the left operand of a product whose sums are ``accumulator(columns)``, kept in registers."""
    return gl.DotOperandLayout(0, accumulator(columns), 2)


@gluon.jit
def barriers(STAGES: gl.constexpr):
    """Of a ring: full, which the producer's copies make a stage, and empty, which both consumers do.

    A tile's own rows are a ring of one stage.
    """
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    return full, empty


@gluon.jit
def notes():
    """Of a tile; consumers would need registers for them all along."""
    return gl.allocate_shared_memory(gl.int32, [6, 1], mbarrier.MBarrierLayout())


@gluon.jit
def announce_tile(slots, numbers):
    """Tell the consumers of a tile, ROW, FIRST and so on, as far as they need it."""
    for i in gl.static_range(len(numbers)):
        announce(slots.index(i), numbers[i])


@gluon.jit
def announce_end(slots, full, empty, phase):
    """Tell them that no tile is left, once they have done with the last one's rows."""
    mbarrier.wait(empty, phase)
    announce(slots.index(HEAD), -1)
    mbarrier.arrive(full, count=1)


@gluon.jit
def load(descs, row, columns, bar, buffers, slot):
    """Let blocks of several operands, from one row on, come to a slot of their buffers."""
    for i in gl.static_range(len(descs)):
        tma.async_copy_global_to_shared(descs[i], [row, columns[i]], bar, buffers[i].index(slot))


@gluon.jit
def to_16_bits(x, dtype: gl.constexpr):
    """x in 16 bits, in pairs from the start: apart, each number would keep a register of its own."""
    if dtype == gl.bfloat16:
        return gl.inline_asm_elementwise(
            "cvt.rn.bf16x2.f32 $0, $2, $1;", "=r,r,r", [x], dtype=gl.bfloat16, is_pure=True, pack=2
        )
    else:
        return gl.inline_asm_elementwise(
            "cvt.rn.f16x2.f32 $0, $2, $1;", "=r,r,r", [x], dtype=gl.float16, is_pure=True, pack=2
        )


@gluon.jit
def place(tile, S, H):
    """A tile's block of 128 rows, its head and its row of the batch.

    A head's blocks follow one another, since they share what they meet.
    """
    blocks = S // OWN
    return tile % blocks, tile // blocks % H, tile // blocks // H


@gluon.jit
def announce_queries(tile, starts_ptr, S, H, slots, empty, phase, BN: gl.constexpr, DOCUMENTS: gl.constexpr):
    """Note a tile of queries, once the rows of the one before are done with; its ROW, FIRST, HEAD and MET.

    MET is the first key, a multiple of BN, that any of its queries sees.
    """
    block, head, row = place(tile, S, H)
    # The last queries of a row see most keys, so they go first.
    m0 = S - OWN - block * OWN
    token = row * S
    first = 0
    if DOCUMENTS:
        # Whatever the tables hold, there is a block of keys to wait for.
        first = gl.maximum(gl.minimum(gl.load(starts_ptr + token + m0) // BN * BN, m0), 0)
    mbarrier.wait(empty, phase)
    announce_tile(slots, (token, m0, head, phase, (row * H + head) * S, first))
    return token, m0, head, first


@gluon.jit
def heard_queries(wg: gl.constexpr, slots, starts_ptr, DOCUMENTS: gl.constexpr):
    """A warpgroup's first query; the first key that it meets, and the one after the last; its row's table."""
    end = heard(slots.index(FIRST)) + OWN
    first = heard(slots.index(MET)) if DOCUMENTS else 0
    return end - OWN + wg * HALF, first, end, starts_ptr + heard(slots.index(ROW))


@gluon.jit
def is_cut(n0, row, starts_ptr, BN: gl.constexpr, DOCUMENTS: gl.constexpr):
    """Whether any of the 64 queries from ``row`` on does not see all of the BN keys from ``n0`` on."""
    cut = n0 + BN - 1 > row
    if DOCUMENTS:
        cut = cut | (n0 < gl.load(starts_ptr + row + HALF - 1))
    return cut


@gluon.jit
def within(x, first, low, high, outside):
    """x in columns from ``low`` to ``high``, which each row has its own of, or None; elsewhere ``outside``.
    Columns are counted from ``first`` on.

    A thread has two columns of every eight. What is left of a bound for these two is compared to 0, 8, 16 and
    so on, where each column's number would take an instruction and a register.
    """
    by_eights = gl.reshape(x, (x.shape[0], x.shape[1] // 8, 8))
    EIGHTS: gl.constexpr = by_eights.type.layout
    eight = 8 * gl.arange(0, x.shape[1] // 8, gl.SliceLayout(0, gl.SliceLayout(2, EIGHTS)))
    eight = gl.expand_dims(gl.expand_dims(eight, 0), 2)
    if low is not None:
        by_eights = gl.where(eight >= _rest_for_two(low, first, EIGHTS), by_eights, outside)
    if high is not None:
        by_eights = gl.where(eight <= _rest_for_two(high, first, EIGHTS), by_eights, outside)
    return gl.convert_layout(gl.reshape(by_eights, x.shape), x.type.layout, assert_trivial=True)


@gluon.jit
def _rest_for_two(column, first, EIGHTS: gl.constexpr):
    column = gl.convert_layout(column, gl.SliceLayout(1, gl.SliceLayout(2, EIGHTS)), assert_trivial=True)
    k = first + gl.arange(0, 8, gl.SliceLayout(0, gl.SliceLayout(1, EIGHTS)))
    rest = gl.expand_dims(gl.expand_dims(column, 1), 2) - gl.expand_dims(gl.expand_dims(k, 0), 1)
    # Or the compiler would add k to each multiple of eight.
    return gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [rest], gl.int32, is_pure=True, pack=1)


@gluon.jit
def seen(x, unseen, n0, row, starts_ptr, DOCUMENTS: gl.constexpr):
    """x of the 64 queries from ``row`` on and the keys from n0 on that they see, and else ``unseen``."""
    m = row + gl.arange(0, HALF, gl.SliceLayout(1, x.type.layout))
    return within(x, n0, gl.load(starts_ptr + m) if DOCUMENTS else None, m, unseen)


@gluon.jit
def store(desc, x, staging, row, column):
    """Write 64 rows by TMA, once what was staged before has left."""
    tma.store_wait(0)
    staging.store(x)
    fence_async_shared()
    tma.async_copy_shared_to_global(desc, [row, column], staging)


@gluon.jit
def store_halves(desc, x, staging, row, column):
    """The same of 128 columns, by 64."""
    parts = gl.split(gl.permute(gl.reshape(x, (HALF, 2, HALF)), (0, 2, 1)))
    for i in gl.static_range(2):
        store(desc, parts[i], staging, row, column + i * HALF)


@gluon.jit
def store_quantized(desc, scale_ptr, x, staging, row, column):
    """The same as bytes, quantised as ``quantize_rows`` does it."""
    x = finite(x.to(gl.float32))
    scale, inverse = power_of_two_scale(gl.max(gl.abs(x), 1))
    at = row + gl.arange(0, HALF, gl.SliceLayout(1, accumulator(x.shape[1])))
    gl.store(scale_ptr + at, scale)
    data = (x * gl.expand_dims(inverse, 1)).to(gl.float8e4nv)
    store(desc, data, staging._reinterpret(gl.float8e4nv, [HALF, x.shape[1]], BYTES), row, column)
