"""From the five points of a face to the upright square in which a network sees it, and back.

The square is that of the data set FFHQ, 512 pixels wide, on which face networks are trained. All
coordinates are continuous: the centre of the first pixel is at (0.5, 0.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from upscaled_models.face.faces import Floats, Points

# Where the two eyes, the nose and the corners of the mouth of an FFHQ face are on average.
# Source: the 512-pixel template of facexlib, with which the published networks were trained.
TEMPLATE: Points = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.19360],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)


@dataclass(frozen=True)
class Similarity:
    """A turn, a scale and a shift of the plane: z becomes factor * z + shift, z = x + iy."""

    factor: complex
    shift: complex

    @property
    def scale(self) -> float:
        """By how much lengths grow."""
        return abs(self.factor)

    def apply(self, points: Points) -> Points:
        """Points (..., 2), moved."""
        moved = self.factor * (points[..., 0] + 1j * points[..., 1]) + self.shift
        return np.stack((moved.real, moved.imag), axis=-1)

    def of_pixels(self, left: int, top: int, width: int, height: int) -> Floats:
        """The centres of the pixels of a window, moved: (height, width, 2)."""
        across = self.factor * (np.arange(left, left + width) + 0.5)
        down = self.factor * 1j * (np.arange(top, top + height) + 0.5) + self.shift
        moved = np.empty((height, width, 2), np.float32)
        np.add(across.real, down.real[:, None], out=moved[..., 0], casting="same_kind")
        np.add(across.imag, down.imag[:, None], out=moved[..., 1], casting="same_kind")
        return moved

    def inverse(self) -> Similarity:
        """The way back. The factor is not 0."""
        return Similarity(1 / self.factor, -self.shift / self.factor)


def align(points: Points) -> tuple[Similarity, float]:
    """The similarity that moves five points nearest to the template, and how far from it they stay.

    The distance is the root of the mean square, in pixels of the template; its eyes are 126 pixels
    apart. Equal points are not moved, and infinitely far.

    Source: least squares over the plane's similarities without reflection (Umeyama, "Least-squares
    estimation of transformation parameters between two point patterns", 1991), in complex numbers.
    """
    found = points[:, 0] + 1j * points[:, 1]
    wanted = TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]
    offsets, targets = found - found.mean(), wanted - wanted.mean()
    spread = float(np.sum(np.abs(offsets) ** 2))
    factor = complex(np.sum(np.conj(offsets) * targets)) / spread if spread > 0 else 0j
    if factor == 0 or not np.isfinite(factor):
        return Similarity(1, 0), float("inf")
    shift = complex(wanted.mean() - factor * found.mean())
    distances = np.abs(factor * found + shift - wanted)
    return Similarity(factor, shift), float(np.sqrt(np.mean(distances**2)))
