"""Alpha, which the service does not see, enlarged here."""

from __future__ import annotations

import numpy as np

from upscaled_imaging.alphabounds import alpha_bounds
from upscaled_imaging.resample import resample

# Rows of context on either side that the kernel looks at.
_MARGIN = 4


def enlarged(alpha: np.ndarray, top: int, count: int, factor: int) -> np.ndarray:
    """Rows `top` to `top + count` of the enlarged plane: (count, W x factor, 1), 8 bits.

    Enlarged by the resampler's Lanczos kernel, within the bounds of `alpha_bounds`. `alpha` is
    (h, W) of 8 or 16 bits.
    """
    height, width = alpha.shape
    first = max(top // factor - _MARGIN, 0)
    last = min(-(-(top + count) // factor) + _MARGIN, height)
    source = alpha[first:last]
    # As the last of two bands, which the resampler takes for alpha and leaves linear.
    pair = np.stack([np.zeros_like(source), source], axis=2)
    size = (width * factor, len(source) * factor)
    blocks = resample([pair], source=(width, len(source)), target=size, bits=8)
    skipped = top - first * factor
    smooth = np.concatenate([block[:, :, 1] for block in blocks])[skipped : skipped + count]
    low, high = alpha_bounds(alpha, top, count, factor)
    if alpha.dtype == np.uint16:
        low, high = low / 257, high / 257
    rows: np.ndarray = np.rint(np.clip(smooth, low, high)[:, :, None]).astype(np.uint8)
    return rows
