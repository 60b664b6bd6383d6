"""Colour under fully transparent pixels, taken from the visible pixels around them.

Files often have black or noise there. A network would read it, and put a dark fringe around the
picture's subject.
Source of the method: pull-push interpolation (Gortler et al., The Lumigraph, SIGGRAPH 1996).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Rows that are filled at once, and rows that are read above and below them. It is more than the
# receptive radius of the compact networks (18 to 34 pixels): colours farther away have no effect.
_REACH = 64


class FilledRows:
    """Rows with alpha, filled; the result does not depend on how many are asked for at once.

    `read` returns the next rows, (h, W, C) with alpha last, and fewer than asked for at the end.
    Holds four blocks of 64 rows.
    """

    def __init__(self, read: Callable[[int], np.ndarray]) -> None:
        self._read = read
        self._above = read(0)
        self._block: np.ndarray | None = None
        self._ready = self._above

    def rows(self, count: int) -> np.ndarray:
        """The next `count` rows, fewer at the end."""
        parts = [self._ready[:0]]
        while count:
            if not len(self._ready):
                self._ready = self._next_block()
            part, self._ready = self._ready[:count], self._ready[count:]
            if not len(part):
                break
            parts.append(part)
            count -= len(part)
        return np.concatenate(parts)

    def _next_block(self) -> np.ndarray:
        block = self._read(_REACH) if self._block is None else self._block
        below = self._read(_REACH) if len(block) == _REACH else block[:0]
        window = np.concatenate([self._above, block, below])
        top = len(self._above)
        self._above, self._block = block, below
        return _filled(window)[top : top + len(block)]


def _filled(rows: np.ndarray) -> np.ndarray:
    hidden = rows[:, :, -1] == 0
    if not hidden.any() or hidden.all():
        return rows
    weight = rows[:, :, -1:].astype(np.float32) / np.float32(np.iinfo(rows.dtype).max)
    sums = np.concatenate([rows[:, :, :-1] * weight, weight], axis=2)
    levels = [sums]
    while 2 ** len(levels) <= _REACH and max(sums.shape[:2]) > 1:
        sums = _halved(sums)
        levels.append(sums)
    total = sums.sum(axis=(0, 1), dtype=np.float64)
    colour = np.broadcast_to((total[:-1] / total[-1]).astype(np.float32), (1, 1, len(total) - 1))
    for level in reversed(levels):
        if colour.shape[:2] != (1, 1):
            colour = _doubled(_doubled(colour, 0, level.shape[0]), 1, level.shape[1])
        seen = level[:, :, -1:] > 0
        colour = np.where(seen, level[:, :, :-1] / np.where(seen, level[:, :, -1:], 1), colour)
    filled = rows.copy()
    filled[:, :, :-1][hidden] = np.rint(colour[hidden])
    return filled


def _halved(sums: Floats) -> Floats:
    height, width = sums.shape[:2]
    padded = np.pad(sums, ((0, height % 2), (0, width % 2), (0, 0)))
    return padded[0::2, 0::2] + padded[1::2, 0::2] + padded[0::2, 1::2] + padded[1::2, 1::2]


def _doubled(coarse: Floats, axis: int, length: int) -> Floats:
    """Twice as many samples along an axis, linearly interpolated."""
    coarse = np.moveaxis(coarse, axis, 0)
    before = np.concatenate([coarse[:1], coarse[:-1]])
    after = np.concatenate([coarse[1:], coarse[-1:]])
    fine = np.empty((2 * len(coarse), *coarse.shape[1:]), np.float32)
    fine[0::2] = np.float32(0.75) * coarse + np.float32(0.25) * before
    fine[1::2] = np.float32(0.75) * coarse + np.float32(0.25) * after
    return np.moveaxis(fine[:length], 0, axis)
