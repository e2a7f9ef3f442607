"""Which tile comes next, and how consumers hear of it: device code of Hopper kernels whose programs stay."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def anew(x):
    """``x`` as a number that the compiler does not know: what follows from it is computed here, where else it
    would be at the start, and kept, and spill.
    """
    return gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def _here(x, PROBLEMS: gl.constexpr):
    """``x``, anew if it is one of several problems'."""
    return anew(x) if PROBLEMS > 1 else x


@gluon.jit
def measure(
    a_desc,
    c_desc,
    tables,
    PROBLEMS: gl.constexpr,
    KIND: gl.constexpr,
    BM: gl.constexpr,
    BN: gl.constexpr,
    PROGRAMS: gl.constexpr,
    HALVES: gl.constexpr,
):
    """M, N, K of a problem, and its number of tiles, where each half counts."""
    rows = _here(a_desc.shape[0], PROBLEMS)
    columns = _here(c_desc.shape[1], PROBLEMS)
    if KIND == "rows":
        rows = gl.load(tables[0] + tables[2])
    tiles = gl.cdiv(rows, BM) * gl.cdiv(columns, BN)
    if KIND == "tokens":
        tiles *= tables[2]
    if HALVES:
        tiles += tiles % PROGRAMS
    return (rows, columns, _here(a_desc.shape[1], PROBLEMS)), tiles


@gluon.jit
def scale_strides(a_desc, size, weight_strides, SCALES: gl.constexpr):
    """Elements between scales, as in ``product.Product``."""
    if SCALES == "row_block":
        expert, n, k = weight_strides
        return gl.cdiv(a_desc.shape[0], 4) * 4, expert, n, k
    elif SCALES == "row_row":
        return gl.cdiv(size[0], 4) * 4, 0, 0, gl.cdiv(size[1], 4) * 4
    else:
        blocks = size[2] // 128
        return blocks, 0, blocks, 1


@gluon.jit
def place(
    tile,
    tables,
    size,
    KIND: gl.constexpr,
    BM: gl.constexpr,
    BN: gl.constexpr,
    GROUP: gl.constexpr,
    PROGRAMS: gl.constexpr,
    HALVES: gl.constexpr,
):
    """Number of a tile -> its expert, first row, first column, first block of K and number of blocks of K;
    and whether it is a whole one. A half below the edge of C has no blocks.

    GROUP rows of tiles are walked column by column, so that what they share is still in the L2 cache.
    """
    rows = gl.cdiv(size[0], BM)
    columns = gl.cdiv(size[1], BN)
    expert = 0
    first = 0
    blocks = gl.cdiv(size[2], 128)
    if KIND == "tokens":
        expert = tile // (rows * columns)
        tile = tile % (rows * columns)
        first = gl.load(tables[0] + expert) // 128
        blocks = gl.load(tables[0] + expert + 1) // 128 - first
    # A square tile is half of one.
    whole = BM != BN
    below = 0
    if HALVES:
        cut = rows * columns // PROGRAMS * PROGRAMS
        whole = tile < cut
        if tile >= cut:
            below = (tile - cut) % 2 * (BM // 2)
            tile = cut + (tile - cut) // 2
    width = GROUP * columns
    top = tile // width * GROUP
    height = gl.minimum(rows - top, GROUP)
    row = top + tile % width % height
    column = tile % width // height
    if HALVES:
        blocks = gl.where(row * BM + below < size[0], blocks, 0)
    if KIND == "rows":
        expert = gl.load(tables[1] + row * (BM // 128))
    return (expert, row * BM + below, column * BN, first, blocks), whole


@gluon.jit
def take(taken_ptr):
    """How many tiles others have taken before this one; one lane of the producer counts, all learn of it.

    ``taken`` begins as 0, or what the other lanes have in it would live on from tile to tile.
    """
    return gl.inline_asm_elementwise(
        """{
        .reg .pred elected;
        .reg .b32 lane, taken;
        elect.sync lane|elected, 0xffffffff;
        mov.b32 taken, 0;
        @elected atom.global.add.u32 taken, [$1], 1;
        shfl.sync.idx.b32 $0, taken, lane, 0x1f, 0xffffffff;
        }""",
        "=r,l",
        [taken_ptr.to(gl.int64)],
        dtype=gl.int32,
        is_pure=False,
        pack=1,
    )


@gluon.jit
def announce(slot, number):
    """Leave a number for the consumers, before the barrier that they wait for is told of it."""
    slot.store(gl.full([1], number, gl.int32, gl.BlockedLayout([1], [32], [1], [0])))


@gluon.jit
def heard(slot):
    """The number in ``slot``, for all threads of a consumer."""
    return gl.max(slot.load(gl.BlockedLayout([1], [32], [4], [0])), 0)
