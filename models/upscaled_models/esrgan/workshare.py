"""How much of a picture's work is done when so many of its rows have come in.

What a band costs differs: by rows, the first bands have not reached the network's last layers, and
the last ones have left the first; in tiles, those at the edges see fewer neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate


def share_by_rows(clock: int, height: int, lag: int) -> float:
    """The share once `clock` rows were fed, or drained, of a network whose layers follow each other
    within `lag` rows, each costing the same."""
    if not lag:
        return min(max(clock, 0), height) / height

    def fed(rows: float) -> float:
        """Row by row and layer by layer, for a picture that never ends."""
        return (max(rows, 0) ** 2 - max(rows - lag, 0) ** 2) / 2

    return (fed(clock) - fed(clock - height)) / (lag * height)


def shares_in_tiles(height: int, band_rows: int, overlap: int, *, exact: bool) -> list[float]:
    """The share after each step of a column of tiles, from none at all on."""
    costs = [
        min(last + overlap, height) - max(first - overlap, 0) if first < last else 0
        for first, last in tile_rows(height, band_rows, overlap, exact=exact)
    ]
    total = sum(costs)
    return [done / total for done in accumulate(costs, initial=0)]


def tile_rows(
    height: int, band_rows: int, overlap: int, *, exact: bool
) -> Iterator[tuple[int, int]]:
    """The first and the last row of the tile that is computed in each step, equal for none."""
    blend = blended_rows(band_rows, overlap, exact=exact)
    clock = first = 0
    while first < height:
        clock += band_rows
        last = min(max(clock - overlap, 0), height)
        if height - last <= blend:
            last = height
        if last - first <= blend and last < height:
            last = first
        yield first, last
        first = last


def blended_rows(band_rows: int, overlap: int, *, exact: bool) -> int:
    """Half of the rows that two tiles share in the result; a tile takes part in two such zones."""
    return 0 if exact else min(overlap, band_rows) // 2
