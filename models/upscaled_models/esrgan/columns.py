"""How a picture is cut into columns of tiles."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """Source pixels: `start` to `stop` are the column's own, `left` to `right` those it sees."""

    start: int
    stop: int
    left: int
    right: int


def cut_columns(width: int, tile_width: int, overlap: int, align: int) -> list[Column]:
    """Cut `width` into the fewest columns of at most `tile_width`, of nearly equal width.

    Each sees `overlap` pixels of its neighbours. Inner edges lie at multiples of `align`, which
    divides `tile_width` and `overlap`.
    """
    units = math.ceil(width / align)
    count = math.ceil(units / (tile_width // align))
    edges = [min(units * index // count * align, width) for index in range(count + 1)]
    return [
        Column(start, stop, max(start - overlap, 0), min(stop + overlap, width))
        for start, stop in itertools.pairwise(edges)
    ]
