"""The steps in which a picture is computed, and each step's share of the work.

Steps differ in cost. By rows, the first bands do not reach the last layers yet, and the last bands
have left the first layers. In tiles, those at the edges see fewer neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np

from upscaled_models.tiling import Span, blend_margin


class Work:
    """The work of one column of a picture.

    costs: one per step, in any unit; zero if nothing is computed in it.
    rows: source rows that are computed, those of overlaps once per tile.
    """

    def __init__(self, costs: Sequence[float], rows: int) -> None:
        self.rows = rows
        total = sum(costs)
        self._shares = [done / total for done in accumulate(costs, initial=0)]
        self._computed = list(accumulate((cost > 0 for cost in costs), initial=0))

    def share(self, steps: int) -> float:
        """The share of the work after so many steps, from 0 to 1."""
        return self._shares[min(steps, len(self._shares) - 1)]

    def left(self, steps: int) -> int:
        """How many of the steps after these compute something."""
        return self._computed[-1] - self._computed[min(steps, len(self._computed) - 1)]

    def computes(self, step: int) -> bool:
        """False if nothing is computed in this step. Steps are numbered from 0."""
        return self.left(step) > self.left(step + 1)


def work_by_rows(
    height: int, wanted: int, band_rows: int, layers: Sequence[tuple[float, float]]
) -> Work:
    """The work of a network by rows.

    wanted: rows of the picture's `height` whose result is needed; the steps end with the last one.
    layers: the rows by which each is behind, and what a row costs in it.
    """
    lags, costs = np.array(layers, float).T
    clocks = np.arange(0, wanted + math.ceil(lags[-1]) + band_rows, band_rows)
    rows = np.clip(clocks[:, None] - lags, 0, height)
    return Work(np.diff(rows @ costs).tolist(), height)


def work_in_tiles(height: int, wanted: int, band_rows: int, overlap: int, *, exact: bool) -> Work:
    """The work of a network in tiles. wanted: as in `work_by_rows`."""
    blend = blend_margin(band_rows, overlap, exact=exact)
    costs = []
    for rows in tile_rows(height, band_rows, overlap, exact=exact):
        costs.append(rows.widened(overlap, height).length if rows.length else 0)
        if rows.stop - blend >= wanted:
            break
    return Work(costs, sum(costs))


def tile_rows(height: int, band_rows: int, overlap: int, *, exact: bool) -> Iterator[Span]:
    """The rows of the tile that is computed in each step; none in some of the first steps.

    Once all rows have come in, the last tile takes the remaining ones: it sees no more rows than
    the tiles before it.
    """
    blend = blend_margin(band_rows, overlap, exact=exact)
    clock = first = 0
    while first < height:
        clock += band_rows
        last = height if clock >= height else max(clock - overlap, 0)
        if last - first <= blend and last < height:
            last = first
        yield Span(first, last)
        first = last
