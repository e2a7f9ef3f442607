"""Tile choices for the FP8 products, measured on one H100 80GB and one H200 with triton 3.6.

Tall tiles win for dense products by 1 to 5 %; for grouped rows a wide tile wins, since groups are rounded up
to 128 rows and a tall tile would straddle two of them. Walking eight rows of tiles together was best or
within 1 % of it everywhere; sixteen cost up to 8 % when power is the limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from .. import registry

SHARED_MEMORY_BYTES = 232_448
"""What one thread block may use on Hopper."""
_RESERVED_BYTES = 768
"""Barriers, the scales that are not in use, alignment."""
_MOST_BYTES = 200 << 10
"""Of operands on their way; a fifth stage of large tiles has never helped."""

LONGEST_LIST = 8
"""Products of one launch."""
_FULL = 0.9
"""Share of the multiprocessors' turns that has work, from which on waiting for more work gains little."""


@dataclass(frozen=True)
class Tile:
    """How the Hopper kernel cuts up a product."""

    rows: int
    columns: int
    stages: int
    """Depth of the ring of operand buffers."""
    group: int = 8
    """Rows of tiles that are walked together."""
    registers: int = 240
    """Of each thread of the second consumer; the first takes what is left."""


def hopper_tile(kind: str, scales: str, rows: Sequence[int], out_bytes: int) -> Tile:
    """The tile for a product.

    Parameters
    ----------
    kind : {"dense", "rows", "tokens"}
    scales : {"row_block", "row_row", "block_block"}
    rows : sequence of int
        Of each result, of one expert's for "tokens".
    out_bytes : int
        Bytes an element of the result has.
    """
    # Wide where more than half of most last tall tiles would hang over, but never with scales of columns: two
    # vectors of them would spill.
    hanging = sum(-r % 256 >= 128 for r in rows)
    tall = kind != "rows" and (scales == "row_row" or 2 * hanging <= len(rows))
    return _tile(*((256, 128) if tall else (128, 256)), scales, out_bytes)


def _tile(rows: int, columns: int, scales: str, out_bytes: int) -> Tile:
    """With as many stages as there is room for."""
    stage_bytes = (rows + columns) * 128
    if scales != "block_block":
        stage_bytes += rows * 4
    if scales == "row_row":
        stage_bytes += columns * 4
    staging_bytes = 64 * 128 * out_bytes * 2
    room = min(SHARED_MEMORY_BYTES - _RESERVED_BYTES - staging_bytes, _MOST_BYTES)
    return Tile(rows, columns, stages=room // stage_bytes)


def cut(
    tile: Tile, scales: str, size: tuple[int, int, int], out_bytes: int, multiprocessors: int
) -> tuple[Tile, bool]:
    """The tile for a dense product that is alone, and whether those of the last turn are cut into halves.

    Either keeps busy who would be idle: squares if there is but half a turn, with more stages than halves,
    and an even number, which leaves each stage to one warpgroup.

    Parameters
    ----------
    tile : Tile
        As for many.
    scales : {"row_block", "row_row", "block_block"}
    size : tuple of int
        Rows and columns of the result, and summands.
    out_bytes : int
        Bytes an element of the result has.
    multiprocessors : int
    """
    if tile.rows <= tile.columns:
        return tile, False
    count = -(-size[0] // tile.rows) * -(-size[1] // tile.columns)
    if 2 * count <= multiprocessors:
        square = _tile(128, 128, scales, out_bytes)
        return replace(square, stages=square.stages // 2 * 2), False
    return tile, 0 < 2 * (count % multiprocessors) <= multiprocessors


def fills(sizes: Iterable[tuple[int, int]], device: torch.device) -> bool:
    """Whether results of ``sizes`` (rows, columns) together keep nearly all multiprocessors at work."""
    if device.type != "cuda":
        return False
    width = registry.multiprocessors(device)
    tiles = sum(-(-rows // 256) * -(-columns // 128) for rows, columns in sizes)
    return tiles >= _FULL * -(-tiles // width) * width
