"""Choices of tiles, which need no GPU."""

from __future__ import annotations

import pytest

from penstock.kernels.gemm.tiles import cut, hopper_tile


@pytest.mark.parametrize(
    ("size", "rows", "halves"),
    [
        ((1280, 1280, 8192), 128, False),  # 50 tiles, 100 squares
        ((7168, 2048, 8192), 256, True),  # three turns and 52 tiles
        ((4096, 7168, 8192), 256, False),  # six turns and 104 tiles
        ((11 * 256, 6 * 128, 8192), 128, False),  # half a turn
        ((11 * 256, 12 * 128, 8192), 256, False),  # one whole turn
    ],
)
def test_idle_multiprocessors_take_half_a_tile(size: tuple[int, int, int], rows: int, halves: bool) -> None:
    tile, some = cut(hopper_tile("dense", "row_row", [size[0]], 4), "row_row", size, 4, 132)
    assert (tile.rows, some) == (rows, halves)


def test_a_wide_tile_is_not_cut() -> None:
    wide = hopper_tile("dense", "row_block", [100], 2)
    assert cut(wide, "row_block", (100, 1280, 1280), 2, 132) == (wide, False)
