"""How close a picture's enlargement came to the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from upscaled_imaging.luma import LUMA

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Score:
    """Over R, G and B, and over luma: PSNR in dB, and SSIM, for which 1 is right."""

    psnr_rgb: float
    psnr_luma: float
    ssim_rgb: float
    ssim_luma: float


def score(truth: Pixels, guess: Pixels, border: int) -> Score:
    """Both (H, W, 3); the outermost `border` pixels do not count."""
    inside = slice(border, -border)
    truth, guess = truth[inside, inside], guess[inside, inside]
    return Score(
        psnr(truth, guess),
        psnr(luma(truth), luma(guess)),
        _ssim(truth, guess, channel_axis=2),
        _ssim(luma(truth), luma(guess), channel_axis=None),
    )


def luma(pixels: Pixels) -> NDArray[np.float64]:
    """(H, W, 3) to (H, W): brightness as JPEG stores it, 0 to 255, not rounded."""
    return np.asarray(pixels @ np.array(LUMA))


def psnr(truth: NDArray[np.generic], guess: NDArray[np.generic]) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of 255 levels."""
    difference = truth.astype(np.float64) - guess.astype(np.float64)
    error = float(np.mean(difference**2))
    return 10.0 * math.log10(255.0**2 / error) if error else math.inf


def _ssim(
    truth: NDArray[np.generic], guess: NDArray[np.generic], channel_axis: int | None
) -> float:
    """Structural similarity with the window of its paper (Wang et al., 2004)."""
    similarity = structural_similarity(  # type: ignore[no-untyped-call]
        truth,
        guess,
        data_range=255.0,
        channel_axis=channel_axis,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(similarity)
