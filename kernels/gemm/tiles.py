"""Tile choices for the FP8 products, measured on one H100 80GB and one H200 with triton 3.6.

Tall tiles win for dense products by 1 to 5 %; for grouped rows a wide tile wins, since groups are rounded up
to 128 rows and a tall tile would straddle two of them. Walking eight rows of tiles together was best or
within 1 % of it everywhere; sixteen cost up to 8 % when power is the limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from .. import registry

SHARED_MEMORY_BYTES = 232_448
"""What one thread block may use on Hopper."""
_RESERVED_BYTES = 768
"""Barriers, the scales that are not in use, alignment."""
_MAX_STAGES = 4
"""A fifth stage has never helped."""

_SHORTEST = 1024
"""Summands below which a part of a tile is not worth its end."""

LONGEST_LIST = 8
"""Products of one launch."""
_FULL = 0.9
"""Share of the multiprocessors' turns that has work, from which on waiting for more work gains little."""


@dataclass(frozen=True)
class Tile:
    """How the Hopper kernel cuts up a product."""

    tall: bool
    """256x128, otherwise 128x256."""
    stages: int
    """Depth of the ring of operand buffers."""
    group: int = 8
    """Rows of tiles that are walked together."""
    registers: int = 240
    """Of each thread of the second consumer; the first takes what is left."""

    @property
    def rows(self) -> int:
        return 256 if self.tall else 128

    @property
    def columns(self) -> int:
        return 128 if self.tall else 256


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
    a_rows, b_rows = (256, 128) if tall else (128, 256)
    stage_bytes = (256 + 128) * 128
    if scales != "block_block":
        stage_bytes += a_rows * 4
    if scales == "row_row":
        stage_bytes += b_rows * 4
    staging_bytes = 64 * 128 * out_bytes * 2
    room = SHARED_MEMORY_BYTES - _RESERVED_BYTES - staging_bytes
    return Tile(tall=tall, stages=min(_MAX_STAGES, room // stage_bytes))


def parts_of_last(size: tuple[int, int, int], tile: Tile, multiprocessors: int) -> int:
    """How many multiprocessors share each tile of the last turn: as many as would else be idle, up to four.

    Parameters
    ----------
    size : tuple of int
        Rows and columns of the result, and summands.
    tile : Tile
    multiprocessors : int
    """
    rows, columns, summands = size
    last = -(-rows // tile.rows) * -(-columns // tile.columns) % multiprocessors
    room = multiprocessors // last if last else 1
    most = max(1, min(room, summands // _SHORTEST))
    return 4 if most >= 4 else min(2, most)


def fills(sizes: Iterable[tuple[int, int]], device: torch.device) -> bool:
    """Whether results of ``sizes`` (rows, columns) together keep nearly all multiprocessors at work."""
    if device.type != "cuda":
        return False
    width = registry.multiprocessors(device)
    tiles = sum(-(-rows // 256) * -(-columns // 128) for rows, columns in sizes)
    return tiles >= _FULL * -(-tiles // width) * width
