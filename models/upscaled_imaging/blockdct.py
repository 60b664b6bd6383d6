"""The discrete cosine transform of blocks of 8x8 pixels, as JPEG has it.

Source: ITU-T T.81, annex A.3.3.
"""

from __future__ import annotations

import math

import numpy as np

SIDE = 8
BASIS = np.array(
    [
        [
            math.sqrt((2 if u else 1) / SIDE) * math.cos((2 * x + 1) * u * math.pi / (2 * SIDE))
            for x in range(SIDE)
        ]
        for u in range(SIDE)
    ],
    np.float32,
)
# The sum of a coefficient's two frequencies: 0 for the mean, 14 for the finest checkerboard.
FREQUENCY = np.add.outer(np.arange(SIDE), np.arange(SIDE))


def blocks_of(plane: np.ndarray, top: int = 0, left: int = 0) -> np.ndarray:
    """The whole blocks of (H, W) on the grid through that pixel: (blocks, 8, 8)."""
    rows, columns = (
        (length - start) // SIDE for length, start in zip(plane.shape, (top, left), strict=True)
    )
    whole = plane[top : top + rows * SIDE, left : left + columns * SIDE]
    cut = whole.reshape(rows, SIDE, columns, SIDE).swapaxes(1, 2)
    return cut.reshape(rows * columns, SIDE, SIDE)


def coefficients(blocks: np.ndarray) -> np.ndarray:
    """(…, 8, 8) pixels to (…, 8, 8) coefficients, of the same energy."""
    # On some ARM processors NumPy warns of overflows in parts of a vector that it does not use.
    with np.errstate(all="ignore"):
        result: np.ndarray = BASIS @ blocks @ BASIS.T
    return result
