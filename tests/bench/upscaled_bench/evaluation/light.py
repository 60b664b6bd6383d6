"""The curve between sRGB as it is stored and linear light (IEC 61966-2-1), 0 to 1 both."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def linear(stored: Values) -> Values:
    """Linear light of stored values."""
    return np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)


def stored(linear: Values) -> Values:
    """Stored values of linear light."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
