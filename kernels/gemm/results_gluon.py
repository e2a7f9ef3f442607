"""How results reach C: device code of the Hopper kernel's consumers.

Of the two accumulators of a tile that is added to C, the first is read and written, and the memory adds the
second. Additions by TMA leave at a few bytes a clock: the first one's would be waited for, the second's leave
while the next tile is multiplied.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Device code: a kernel's arguments have no Python types.

from __future__ import annotations

from triton._C.libtriton import ir
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language._core import builtin
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma


@builtin
def async_add_shared_to_global(tensor_desc, coord, src, _semantic=None):
    """Like ``tma.async_copy_shared_to_global``, but adds to what is there; Gluon has no name for it yet."""
    coord = _semantic._convert_to_ir_values(coord, require_i64=False)
    kind = ir.DESCRIPTOR_REDUCE_KIND.ADD
    _semantic.builder.create_async_tma_reduce(kind, tensor_desc.handle, coord, src.handle)


@gluon.jit
def fetch(result, expert, row, column, size, KIND: gl.constexpr):
    """Let what a part of C holds come to where its result will be staged, once the one before has left."""
    c_desc, c_part, standing = result
    if KIND == "tokens":
        row += expert * size[0]
    tma.store_wait(0)
    mbarrier.expect(standing, 64 * 128 * 4)
    tma.async_copy_global_to_shared(c_desc, [row, column], standing, c_part)


@gluon.jit
def standing_part(result, phase, mma: gl.constexpr):
    """What ``fetch`` fetched."""
    _, c_part, standing = result
    mbarrier.wait(standing, phase)
    return c_part.load(mma)


@gluon.jit
def store(result, acc, expert, row, column, size, KIND: gl.constexpr, ADD: gl.constexpr):
    """Write or add an accumulator by TMA, which clips at the edges of C but does not know an expert's.

    A tile has one owner, so additions are deterministic.
    """
    c_desc, c_part, _ = result
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
