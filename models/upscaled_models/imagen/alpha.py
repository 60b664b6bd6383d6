"""Alpha, which the service does not see, enlarged here.

By the resampler's Lanczos kernel, held between the least and the greatest of the nine source pixels
around: what is opaque stays opaque, what is clear stays clear, and edges get no halo.
"""

from __future__ import annotations

import numpy as np

from upscaled_imaging.resample import resample

# Rows of context on either side that the kernel looks at.
_MARGIN = 4


def enlarged(alpha: np.ndarray, top: int, count: int, factor: int) -> np.ndarray:
    """Rows ``top`` to ``top + count`` of the enlarged plane: (count, W x factor, 1), 8 bits.

    ``alpha`` is (h, W) of 8 or 16 bits.
    """
    height, width = alpha.shape
    first = max(top // factor - _MARGIN, 0)
    last = min(-(-(top + count) // factor) + _MARGIN, height)
    source = alpha[first:last]
    # As the last of two bands, which the resampler takes for alpha and leaves linear.
    pair = np.stack([np.zeros_like(source), source], axis=2)
    size = (width * factor, len(source) * factor)
    blocks = resample([pair], source=(width, len(source)), target=size, bits=8)
    smooth = np.concatenate([block[:, :, 1] for block in blocks])
    low, high = _bounds(source if source.dtype == np.uint8 else source / 257)
    bounded = np.clip(smooth, _repeated(low, factor), _repeated(high, factor))
    skipped = top - first * factor
    rows: np.ndarray = np.rint(bounded[skipped : skipped + count, :, None]).astype(np.uint8)
    return rows


def _bounds(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest of each pixel's neighbourhood of three by three."""
    padded = np.pad(plane, 1, mode="edge")
    around = [
        padded[y : y + plane.shape[0], x : x + plane.shape[1]] for y in range(3) for x in range(3)
    ]
    return np.minimum.reduce(around), np.maximum.reduce(around)


def _repeated(plane: np.ndarray, factor: int) -> np.ndarray:
    return plane.repeat(factor, axis=0).repeat(factor, axis=1)
