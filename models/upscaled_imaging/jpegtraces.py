"""Pixels that were in a JPEG before: what remains of it in a PNG, and in a JPEG of a JPEG.

JPEG rounds the coefficients of each block to multiples of a step. On the grid of the blocks most
fine coefficients are therefore zero, and on any other grid they are not; and the others are
multiples of few numbers. Both hold for every encoder, and also if the picture was cut. Nothing
remains of a JPEG that was scaled.

Source: Z. Fan and R. L. de Queiroz, "Identification of bitmap compression history: JPEG detection
and quantizer estimation", IEEE Transactions on Image Processing 12 (2003).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from upscaled_imaging.blockdct import BASIS, FREQUENCY, SIDE, blocks_of, coefficients
from upscaled_imaging.compression import LUMINANCE, jpeg_quality

# A coefficient that JPEG made zero stays below this, because pixels are rounded to whole levels.
_ZERO = 0.8
# Blocks that are flat have no fine coefficients on any grid: they say nothing.
_BUSY = 8.0
_LEAST_BUSY_BLOCKS = 12
# By how much more of the fine coefficients must be zero on the best grid than on all others, of
# what is possible. Photographs from JPEGs at quality 95 have 0.3 or more and colourful drawings,
# whose pixels were clipped, 0.05. Photographs that were in no JPEG have up to 0.03.
_EXCESS = 0.05
# A step is believed if its multiples are hit so many standard deviations more often than by chance,
# and a JPEG if so many frequencies have one.
_DEVIATIONS = 3.0
_LEAST_FREQUENCIES = 5
# The steps follow the usual table up to this factor between their quartiles. A drawing with a grid
# of its own has steps as well, but 3 and more.
_MOST_SPREAD = 2.0
_LEAST_VALUES, _MOST_VALUES = 8, 400
_STEPS = np.arange(2, 122, dtype=np.float32)
_TOLERANCES = np.minimum(0.75, _STEPS / 4)
# Fine in one direction or in both: a grid that is wrong in one direction only must differ as well.
_FINE = (0, 5, 6, 7)


def find_jpeg(planes: Sequence[np.ndarray]) -> int | None:
    """The quality of the JPEG that the pixels were in, 1 to 100; None if they were in none.

    planes: luma, (H, W) of float32, 0 to 255: windows of the picture at its own size, whose upper
    left corners lie a multiple of 8 pixels apart.
    """
    grid = _find_grid(planes)
    if grid is None:
        return None
    found = np.concatenate([coefficients(blocks_of(plane, *grid)) for plane in planes])
    coarse = (FREQUENCY >= 1) & (FREQUENCY <= 3)
    busy = np.abs(found[np.abs(found[:, coarse]).max(axis=1) >= _BUSY])
    scales = [
        step / LUMINANCE[u][v]
        for u, v in np.argwhere(FREQUENCY >= 2)
        if (step := _find_step(busy[:, u, v])) is not None
    ]
    if len(scales) < _LEAST_FREQUENCIES:
        return None
    low, middle, high = np.quantile(scales, (0.25, 0.5, 0.75))
    return jpeg_quality(float(middle)) if high <= _MOST_SPREAD * low else None


def _find_grid(planes: Sequence[np.ndarray]) -> tuple[int, int] | None:
    """The offsets of the blocks' grid, down and right; None if no grid differs from the others."""
    zeros, busy = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    for plane in planes:
        is_busy = _is_busy(plane)
        is_zero = sum(np.abs(fine) < _ZERO for fine in _fine(plane)) * is_busy
        for top, left in np.ndindex(SIDE, SIDE):
            zeros[top, left] += is_zero[top::SIDE, left::SIDE].sum()
            busy[top, left] += is_busy[top::SIDE, left::SIDE].sum()
    shares = zeros / np.maximum(busy, 1) / (len(_FINE) ** 2 - 1)
    shares[busy < _LEAST_BUSY_BLOCKS] = 0
    down, right = divmod(int(shares.argmax()), SIDE)
    # A grid that shares a direction with the best one has some of its zeros.
    others = np.delete(np.delete(shares, down, axis=0), right, axis=1).max()
    is_clear = shares[down, right] - others >= _EXCESS * (1 - others)
    return (down, right) if is_clear else None


def _is_busy(plane: np.ndarray) -> np.ndarray:
    """For the block that begins at each pixel: whether it has coarse coefficients."""
    mean, slope = _along_rows(plane, 0), _along_rows(plane, 1)
    coarse = (_along_columns(slope, 0), _along_columns(mean, 1), _along_columns(slope, 1))
    is_busy: np.ndarray = np.maximum.reduce([np.abs(one) for one in coarse]) >= _BUSY
    return is_busy


def _fine(plane: np.ndarray) -> Iterator[np.ndarray]:
    """The fine coefficients of the block that begins at each pixel, one at a time."""
    for u in _FINE:
        across = _along_rows(plane, u)
        for v in _FINE:
            if u or v:
                yield _along_columns(across, v)


def _along_rows(plane: np.ndarray, frequency: int) -> np.ndarray:
    width = plane.shape[1] - SIDE + 1
    result: np.ndarray = BASIS[frequency, 0] * plane[:, :width]
    for at in range(1, SIDE):
        result += BASIS[frequency, at] * plane[:, at : at + width]
    return result


def _along_columns(plane: np.ndarray, frequency: int) -> np.ndarray:
    height = plane.shape[0] - SIDE + 1
    result: np.ndarray = BASIS[frequency, 0] * plane[:height]
    for at in range(1, SIDE):
        result += BASIS[frequency, at] * plane[at : at + height]
    return result


def _find_step(values: np.ndarray) -> float | None:
    """The number whose multiples the values are; None if there is none.

    A smaller number that divides it is hit as often, but more often by chance.
    """
    values = values[values > 1.0][:_MOST_VALUES]
    if len(values) < _LEAST_VALUES:
        return None
    multiples = np.rint(values / _STEPS[:, None])
    distances = np.abs(values - multiples * _STEPS[:, None])
    hits = ((distances <= _TOLERANCES[:, None]) & (multiples > 0)).sum(axis=1)
    chance = 2 * _TOLERANCES / _STEPS
    deviations = (hits - len(values) * chance) / np.sqrt(len(values) * chance * (1 - chance))
    best = int(deviations.argmax())
    return float(_STEPS[best]) if deviations[best] >= _DEVIATIONS else None
