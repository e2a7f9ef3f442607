"""Which tile comes next, and how consumers hear of it: device code of the Hopper kernel."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def _here(x):
    """``x``, pinned: what follows from it would else be computed for all problems at the start, and spill."""
    return gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=gl.int32, is_pure=False, pack=1)


@gluon.jit
def measure(
    a_desc,
    c_desc,
    tables,
    KIND: gl.constexpr,
    TALL: gl.constexpr,
    PROGRAMS: gl.constexpr,
    PARTS: gl.constexpr,
):
    """M, N, K of a problem, and its number of tiles, where each part of a shared one counts."""
    BM: gl.constexpr = 256 if TALL else 128
    BN: gl.constexpr = 128 if TALL else 256
    rows = _here(a_desc.shape[0])
    columns = _here(c_desc.shape[1])
    if KIND == "rows":
        rows = gl.load(tables[0] + tables[2])
    tiles = gl.cdiv(rows, BM) * gl.cdiv(columns, BN)
    if KIND == "tokens":
        tiles *= tables[2]
    if PARTS > 1:
        tiles += tiles % PROGRAMS * (PARTS - 1)
    return (rows, columns, _here(a_desc.shape[1])), tiles


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
    TALL: gl.constexpr,
    GROUP: gl.constexpr,
    PROGRAMS: gl.constexpr,
    PARTS: gl.constexpr,
):
    """Number of a tile -> its expert, first row, first column, first block of K and number of blocks of K; if
    it is a part of a shared tile also which part, and the number of that tile among those, else -1.

    GROUP rows of tiles are walked column by column, so that what they share is still in the L2 cache.
    """
    BM: gl.constexpr = 256 if TALL else 128
    BN: gl.constexpr = 128 if TALL else 256
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
    part = 0
    shared = -1
    if PARTS > 1:
        whole = rows * columns // PROGRAMS * PROGRAMS
        if tile >= whole:
            part = (tile - whole) % PARTS
            shared = (tile - whole) // PARTS
            tile = whole + shared
            first = blocks * part // PARTS
            blocks = blocks * (part + 1) // PARTS - first
    width = GROUP * columns
    top = tile // width * GROUP
    height = gl.minimum(rows - top, GROUP)
    row = top + tile % width % height
    column = tile % width // height
    if KIND == "rows":
        expert = gl.load(tables[1] + row * (BM // 128))
    return expert, row * BM, column * BN, first, blocks, part, shared


@gluon.jit
def take(taken_ptr):
    """How many tiles others have taken before this one; one lane of the producer counts, all learn of it."""
    return gl.inline_asm_elementwise(
        """{
        .reg .pred elected;
        .reg .b32 lane, taken;
        elect.sync lane|elected, 0xffffffff;
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
def announce(slot, tile):
    """Tell the consumers which tile comes after the one that this stage belongs to."""
    slot.store(gl.full([1], tile, gl.int32, gl.BlockedLayout([1], [32], [1], [0])))


@gluon.jit
def heard(slot):
    """The number in ``slot``, for all threads of a consumer."""
    return gl.max(slot.load(gl.BlockedLayout([1], [32], [4], [0])), 0)


@gluon.jit
def count_part(count_ptr):
    """Say that this consumer's part of a shared tile is in memory: each of its threads counts one.

    Only the thread that sent it waits for something, but none can tell that it is not the one.
    """
    gl.inline_asm_elementwise(
        """{
        cp.async.bulk.wait_group 0;
        red.release.gpu.global.add.u32 [$1], 1;
        mov.b32 $0, 0;
        }""",
        "=r,l",
        [count_ptr.to(gl.int64)],
        dtype=gl.int32,
        is_pure=False,
        pack=1,
    )


@gluon.jit
def await_parts(count_ptr, parts):
    """Wait until the consumers of as many earlier parts have counted theirs; then TMA may add to them.

    They come from blocks of lower number in the same turn, which started no later.
    """
    gl.inline_asm_elementwise(
        """{
        .reg .pred less;
        .reg .b32 seen;
        again:
        ld.acquire.gpu.global.u32 seen, [$1];
        setp.lt.u32 less, seen, $2;
        @less bra again;
        fence.proxy.async;
        mov.b32 $0, seen;
        }""",
        "=r,l,r",
        [count_ptr.to(gl.int64), parts * 128],
        dtype=gl.int32,
        is_pure=False,
        pack=1,
    )
