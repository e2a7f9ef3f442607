"""Choices of tiles, which need no GPU."""

from __future__ import annotations

import pytest

from penstock.kernels.gemm.tiles import Tile, parts_of_last


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        ((1280, 1280, 8192), 2),  # 50 tiles
        ((7168, 2048, 8192), 2),  # three turns and 52 tiles
        ((4096, 7168, 8192), 1),  # six turns and 104 tiles
        ((7168, 16384, 8192), 4),  # 27 turns and 20 tiles
        ((7168, 16384, 3072), 2),
        ((1280, 1280, 1024), 1),
        ((11 * 256, 12 * 128, 8192), 1),  # one whole turn
    ],
)
def test_idle_multiprocessors_share_the_last_tiles(size: tuple[int, int, int], parts: int) -> None:
    assert parts_of_last(size, Tile(tall=True, stages=4), 132) == parts
