"""The layout of several pictures in one."""

from __future__ import annotations

import math
from typing import NamedTuple


class Tile(NamedTuple):
    """A rectangle in a picture, in pixels. All numbers are even, because chroma has half the resolution."""

    left: int
    top: int
    width: int
    height: int


def tiles(count: int, width: int, height: int) -> list[Tile]:
    """Return `count` tiles in a square grid, row by row. A last row that is not full is centred."""
    if count < 1:
        return []
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    wide, high = width // columns & ~1, height // rows & ~1
    placed = []
    for index in range(count):
        row, column = divmod(index, columns)
        in_row = min(columns, count - row * columns)
        indent = (width - in_row * wide) // 2 & ~1
        placed.append(Tile(indent + column * wide, row * high, wide, high))
    return placed


def fitted(tile: Tile, width: int, height: int) -> Tile:
    """Return the centred part of a tile that a picture of this size fills when it keeps its aspect ratio."""
    scale = min(tile.width / width, tile.height / height)
    wide, high = (max(2, int(side * scale + 1e-6) & ~1) for side in (width, height))
    return Tile(tile.left + ((tile.width - wide) // 2 & ~1), tile.top + ((tile.height - high) // 2 & ~1), wide, high)
