"""Joins the tiles of a picture, a few rows at a time, with a linear blend where they overlap."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from upscaled_models.imagen.layout import Layout
from upscaled_models.imagen.picture import Read
from upscaled_models.tiling import Span, linear_weights

# Rows that are blended at once. As floats they should stay small beside the tiles.
_STRIP_ROWS = 64


def join(bands: Iterable[list[Read]], layout: Layout) -> Iterator[np.ndarray]:
    """The enlarged picture's rows, (h, W, C) of 8 bits, from those of its tiles.

    bands: for each of the layout's rows of tiles, a reader per tile. Holds the rows that two bands
    share.
    """
    factor = layout.factor
    shared = [0, *(factor * (a.stop - b.start) for a, b in itertools.pairwise(layout.rows)), 0]
    above = np.empty((0, 0, 0), np.uint8)
    for index, (span, tiles) in enumerate(zip(layout.rows, bands, strict=True)):
        head, height, tail = shared[index], span.length * factor, shared[index + 1]
        rising = linear_weights(head)[:, None, None]
        for top, count in _strips(0, head):
            weights = rising[top : top + count]
            strip = _across(tiles, layout, count)
            yield _rounded(above[top : top + count] * (1 - weights) + strip * weights)
        for _, count in _strips(head, height - tail):
            yield _rounded(_across(tiles, layout, count))
        held = [_rounded(_across(tiles, layout, count)) for _, count in _strips(0, tail)]
        above = np.concatenate(held) if held else above[:0]


def _across(tiles: list[Read], layout: Layout, count: int) -> np.ndarray:
    """The next rows of a band: bytes if it is one tile, floats if there are several."""
    if len(tiles) == 1:
        return tiles[0](count)
    columns, factor = layout.columns, layout.factor
    joined: np.ndarray | None = None
    for index, (column, read) in enumerate(zip(columns, tiles, strict=True)):
        rows = read(count).astype(np.float32)
        if index:
            weights = _weights(columns[index - 1], column, factor)
            rows[:, : len(weights)] *= weights
        if index + 1 < len(columns):
            weights = _weights(column, columns[index + 1], factor)
            rows[:, rows.shape[1] - len(weights) :] *= 1 - weights
        if joined is None:
            joined = np.zeros((count, columns[-1].stop * factor, rows.shape[2]), np.float32)
        joined[:, column.start * factor : column.stop * factor] += rows
    assert joined is not None
    return joined


def _weights(left: Span, right: Span, factor: int) -> NDArray[np.float32]:
    """The right tile's weights over the columns that both share, (columns, 1)."""
    return linear_weights((left.stop - right.start) * factor)[:, None]


def _strips(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The first row and the height of each strip."""
    for top in range(first, last, _STRIP_ROWS):
        yield top, min(_STRIP_ROWS, last - top)


def _rounded(rows: np.ndarray) -> np.ndarray:
    return rows if rows.dtype == np.uint8 else np.rint(rows).astype(np.uint8)
