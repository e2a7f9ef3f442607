"""What the Hopper kernels of latent attention share: device code.

A program owns 128 rows of one head, queries or keys, which stay in shared memory. One warp, the producer,
copies by TMA the blocks of keys or queries that they meet into a ring; two warpgroups, the consumers, have 64
of the rows each. Rows of a batch are a multiple of 128 long, so that no block hangs over.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from ..quantize.numbers_gluon import finite, power_of_two_scale

NOPE, ROPE, VALUE = gl.constexpr(128), gl.constexpr(64), gl.constexpr(128)
"""Features of a head: its own of queries and keys, rotated ones, and of values."""
OWN, HALF = gl.constexpr(128), gl.constexpr(64)
"""Rows of a program and of a warpgroup."""
LN_2 = gl.constexpr(0.6931471805599453)
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
    """Of a ring: full, which the producer's copies make a stage, and empty, which both consumers do."""
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=2)
    return full, empty


@gluon.jit
def barrier():
    """For rows that a program keeps, which come once."""
    ready = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    mbarrier.init(ready.index(0), count=1)
    return ready.index(0)


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
def queries_and_keys(starts_ptr, S, BN: gl.constexpr, DOCUMENTS: gl.constexpr):
    """The first query of a program, and the first key, a multiple of BN, that any of its queries sees.

    Whatever the tables hold, there is a block of keys to wait for.
    """
    # The last queries of a row see most keys, so they go first.
    m0 = (gl.num_programs(0) - 1 - gl.program_id(0)) * OWN
    first = 0
    if DOCUMENTS:
        first = gl.minimum(gl.load(starts_ptr + gl.program_id(2) * S + m0) // BN * BN, m0)
    return m0, first


@gluon.jit
def is_cut(n0, row, starts_ptr, S, BN: gl.constexpr, DOCUMENTS: gl.constexpr):
    """Whether any of the 64 queries from ``row`` on does not see all of the BN keys from ``n0`` on."""
    cut = n0 + BN - 1 > row
    if DOCUMENTS:
        cut = cut | (n0 < gl.load(starts_ptr + gl.program_id(2) * S + row + HALF - 1))
    return cut


@gluon.jit
def seen(n0, row, starts_ptr, S, BN: gl.constexpr, DOCUMENTS: gl.constexpr):
    """Which of those keys each of the queries sees."""
    scores: gl.constexpr = accumulator(BN)
    m = row + gl.arange(0, HALF, gl.SliceLayout(1, scores))
    n = gl.expand_dims(n0 + gl.arange(0, BN, gl.SliceLayout(0, scores)), 0)
    visible = n <= gl.expand_dims(m, 1)
    if DOCUMENTS:
        start = gl.load(starts_ptr + gl.program_id(2) * S + m)
        visible = visible & (n >= gl.expand_dims(start, 1))
    return visible


@gluon.jit
def store(desc, x, staging, row, column):
    """Write 64 rows by TMA, by way of what a warpgroup no longer needs in shared memory."""
    staging.store(x)
    fence_async_shared()
    tma.async_copy_shared_to_global(desc, [row, column], staging)


@gluon.jit
def store_quantized(desc, scale_ptr, x, staging, row, column, columns: gl.constexpr):
    """The same as bytes of rows of ``columns``, quantised as ``quantize_rows`` does it."""
    x = finite(x.to(gl.float32))
    scale, inverse = power_of_two_scale(gl.max(gl.abs(x), 1))
    at = row + gl.arange(0, HALF, gl.SliceLayout(1, accumulator(columns)))
    gl.store(scale_ptr + at, scale)
    data = (x * gl.expand_dims(inverse, 1)).to(gl.float8e4nv)
    store(desc, data, staging._reinterpret(gl.float8e4nv, [HALF, columns], BYTES), row, column)
