"""A small copy of a picture, in which its faces are looked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from upscaled_imaging.read import Source

# The copy has fewer pixels than this: all of a face with 60 pixels in a picture of 12 megapixels is
# then 30 pixels wide, and its points can be found to a pixel of the picture.
_MOST_PIXELS = 4_000_000
# Rows of the source that are read at once, at least.
_ROWS = 64


@dataclass(frozen=True, eq=False)
class ReducedCopy:
    """pixels: (h, w, 3), uint8 RGB. factor: pixels of the picture per pixel of the copy."""

    pixels: NDArray[np.uint8]
    factor: int = 1


def reduced_copy(source: Source) -> ReducedCopy:
    """Read a picture to its end, and keep the mean of each square of pixels. Raises `JobError`."""
    factor = max(1, math.ceil(math.sqrt(source.width * source.height / _MOST_PIXELS)))
    colours = source.bands - source.has_alpha
    parts = []
    while source.rows_left:
        rows = source.rows(math.ceil(_ROWS / factor) * factor)[:, :, :colours]
        if rows.dtype == np.uint16:
            rows = (rows >> 8).astype(np.uint8)
        picture = Image.fromarray(rows[:, :, 0] if colours == 1 else np.ascontiguousarray(rows))
        parts.append(np.asarray(picture.reduce(factor).convert("RGB")))
    return ReducedCopy(np.concatenate(parts), factor)
