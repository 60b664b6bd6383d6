"""Distances between a picture and its guess."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from training.loss import LUMA


def luma(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(H, W, 3) to (H, W): brightness as JPEG stores it, 0 to 255, not rounded."""
    return np.asarray(pixels @ np.array(LUMA))


def psnr(
    truth: NDArray[np.uint8] | NDArray[np.float64],
    guess: NDArray[np.uint8] | NDArray[np.float64],
    border: int,
) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of 255 levels, without their `border`."""
    inside = slice(border, -border)
    difference = truth[inside, inside].astype(np.float64) - guess[inside, inside]
    error = float(np.mean(difference**2))
    return 10.0 * math.log10(255.0**2 / error) if error else math.inf
