"""``transpose_shift`` for Hopper, in Gluon: a program transposes one tile of 128x128.

Bytes never travel alone: a thread takes four columns of four rows as words, turns them in its registers and
leaves words of four rows. TMA writes the tile, lines of 128 bytes at a time.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from ..types import BLOCK, RowQ, TokQ, empty_tokens

WARPS = 4
SMALLEST_SCALE = gl.constexpr(2.0**-126)
TILE = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=8, rank=2)


@gluon.constexpr_function
def _squares(elements):
    """128x128, four rows of four columns in a thread at a time, in the order of ``elements``."""
    lanes = [[4, 0], [8, 0], [0, 4], [0, 8], [0, 16]]
    squares = [[16, 0], [0, 32], [0, 64]]
    return gl.DistributedLinearLayout(elements + squares, lanes, [[32, 0], [64, 0]], [], [128, 128])


BY_ROWS = gl.constexpr(_squares([[0, 1], [0, 2], [1, 0], [2, 0]]))
BY_COLUMNS = gl.constexpr(_squares([[1, 0], [2, 0], [0, 1], [0, 2]]))


@gluon.jit
def send_transposed(q, scale, largest, tile_s, t_desc, row, column, BY_COLUMNS: gl.constexpr):
    """Bytes at ``scale`` of each row, brought to ``largest`` and transposed, to ``row`` of a matrix by TMA.

    ``BY_COLUMNS`` is the layout of q but for the order of a thread's elements, four rows of a column first;
    ``tile_s`` is where the tile waits, perhaps what q was read from.
    """
    # As in quantize_triton.shift.
    drop = (largest.to(gl.int32, bitcast=True) - scale.to(gl.int32, bitcast=True)) >> 23
    factor = ((127 - gl.minimum(drop, 24)) << 23).to(gl.float32, bitcast=True).to(gl.float16)
    shifted = q.to(gl.float16) * gl.expand_dims(factor, 1)
    words = gl.convert_layout(shifted, BY_COLUMNS).to(gl.float8e4nv)
    tile_s.store(gl.permute(words, (1, 0)))
    fence_async_shared()
    tma.async_copy_shared_to_global(t_desc, [row, column], tile_s)


@gluon.jit
def _rows(rows_ptr, row_block, M, M_OUT, GATHER: gl.constexpr, layout: gl.constexpr):
    """Where a tile's rows come from; -1 for zeros."""
    place = row_block * 128 + gl.arange(0, 128, layout)
    if GATHER:
        return gl.load(rows_ptr + place, mask=place < M_OUT, other=-1).to(gl.int64)
    else:
        return gl.where(place < M, place, -1).to(gl.int64)


@gluon.jit
def transpose_shift_kernel(
    q_ptr, s_ptr, rows_ptr, t_desc, ts_ptr, M, K, M_OUT, s_stride, GATHER: gl.constexpr
):
    """A tile of bytes at its largest scale, transposed.

    Programs that follow one another go down the rows of a block of columns: so what they write lies side by
    side, and of rows that are gathered several times these columns are still in the L2 cache.
    """
    # Sixteen columns a thread, eight threads a row.
    READ: gl.constexpr = gl.BlockedLayout([1, 16], [4, 8], [gl.num_warps(), 1], [1, 0])
    row_blocks = gl.cdiv(M_OUT, 128)
    column_block = gl.program_id(0) // row_blocks
    row_block = gl.program_id(0) % row_blocks
    tile_s = gl.allocate_shared_memory(t_desc.dtype, [128, 128], t_desc.layout)
    m = _rows(rows_ptr, row_block, M, M_OUT, GATHER, gl.SliceLayout(1, READ))
    k = column_block * 128 + gl.arange(0, 128, gl.SliceLayout(0, READ))
    inside = gl.expand_dims(m >= 0, 1) & gl.expand_dims(k < K, 0)
    q = gl.load(q_ptr + gl.expand_dims(m * K, 1) + gl.expand_dims(k, 0), mask=inside, other=0.0)
    m = _rows(rows_ptr, row_block, M, M_OUT, GATHER, gl.SliceLayout(1, BY_ROWS))
    scale = gl.load(s_ptr + column_block * s_stride + m, mask=m >= 0, other=SMALLEST_SCALE)
    largest = gl.max(scale, 0)
    gl.store(ts_ptr + gl.program_id(0), largest)
    tile_s.store(q)
    q = tile_s.load(BY_ROWS)
    send_transposed(q, scale, largest, tile_s, t_desc, column_block * 128, row_block * 128, BY_COLUMNS)
    tma.store_wait(0)


def transpose_shift(a: RowQ, rows: Tensor | None = None) -> TokQ:
    """See ``op.transpose_shift``."""
    m, k = a.data.shape
    m_out = m if rows is None else rows.shape[0]
    t = TokQ(*empty_tokens(m_out, k, a.data.device))
    if t.data.numel():
        transpose_shift_kernel[(t.scale.numel(),)](
            a.data,
            a.scale,
            a.data if rows is None else rows.contiguous(),
            TensorDescriptor.from_tensor(t.data, [BLOCK, BLOCK], TILE),
            t.scale,
            m,
            k,
            m_out,
            a.scale.stride(0),
            GATHER=rows is not None,
            num_warps=WARPS,
        )
    return t
