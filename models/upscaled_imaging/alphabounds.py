"""Bounds for enlarged alpha: opaque areas stay opaque, and clear ones stay clear.

A network that was trained on colours answers 254 for an input of 255, and a resampler overshoots at
edges. Alpha is clamped to the least and the greatest of the nine source pixels around it, so that
flat areas keep their value and edges get no halo.
"""

from __future__ import annotations

import numpy as np


def alpha_bounds(
    alpha: np.ndarray, top: int, count: int, factor: int
) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value for rows `top` to `top + count` of the enlarged plane.

    `alpha` is the source plane, (h, W) of uint8 or uint16; each bound is (count, W x factor) of
    the same type.
    """
    first, last = top // factor, -(-(top + count) // factor)
    above = max(first - 1, 0)
    window = np.pad(alpha[above : last + 1], 1, mode="edge")
    height, width = window.shape[0] - 2, window.shape[1] - 2
    around = [window[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    skipped = top - first * factor

    def enlarged(bound: np.ndarray) -> np.ndarray:
        rows = bound[first - above : last - above].repeat(factor, axis=0).repeat(factor, axis=1)
        return rows[skipped : skipped + count]

    return enlarged(np.minimum.reduce(around)), enlarged(np.maximum.reduce(around))


class AlphaBounds:
    """The bounds of a plane whose rows come from the top down; holds the rows that it needs."""

    def __init__(self, height: int, factor: int) -> None:
        self._height = height
        self._factor = factor
        self._held: np.ndarray | None = None
        # Source rows that were dropped, and enlarged rows that were taken.
        self._dropped = 0
        self._taken = 0

    def push(self, alpha: np.ndarray) -> None:
        """Take the next source rows, (h, W)."""
        self._held = alpha if self._held is None else np.concatenate([self._held, alpha])

    def take(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The bounds of the next `count` enlarged rows.

        Raises `ValueError` if a source row of theirs, or the one below, was not pushed yet.
        """
        last = self._taken + count
        needed = min(-(-last // self._factor) + 1, self._height) - self._dropped
        if self._held is None or len(self._held) < needed:
            raise ValueError(f"the bounds of rows up to {last} need more source rows")
        top = self._taken - self._dropped * self._factor
        bounds = alpha_bounds(self._held, top, count, self._factor)
        unneeded = max(last // self._factor - 1, 0) - self._dropped
        self._held = self._held[unneeded:]
        self._dropped += unneeded
        self._taken = last
        return bounds
