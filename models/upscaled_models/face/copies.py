"""Smaller copies of a picture, from which parts of it are cut in any size and orientation."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from upscaled_models.face.alignment import Similarity
from upscaled_models.face.sampling import sample, to_planes

# Pixels around a square that interpolation reads.
_MARGIN_PX = 3


class Copies:
    """A picture, (h, w, 3) of uint8 RGB, with half of its sides, with a quarter, and so on."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._copies = [Image.fromarray(pixels)]
        self.size: tuple[int, int] = self._copies[0].size

    def whole(self, scale: float) -> Image.Image:
        """All of the picture; its sides are `scale` times as long."""
        copy, times = self._at_most(1 / scale)
        width, height = self.size
        # The last pixels of the copy may reach beyond the picture.
        part = (0, 0, width / times, height / times)
        return _resized(copy, part, scale * times)

    def tile(self, left: int, top: int, side: int) -> NDArray[np.uint8]:
        """The pixels of a square of the picture, as far as it lies in the picture."""
        width, height = self.size
        box = (left, top, min(left + side, width), min(top + side, height))
        return np.asarray(self._copies[0].crop(box))

    def crop(self, square: Similarity, side: int) -> NDArray[np.uint8]:
        """A square of the picture, (side, side, 3); beyond the picture its last pixels continue.

        square: from the square of `side` pixels to the picture.
        """
        copy, times = self._at_most(square.scale)
        to_copy = Similarity(square.factor / times, square.shift / times)
        corners = to_copy.apply(np.array([[0, 0], [side, 0], [0, side], [side, side]], float))
        margin = _MARGIN_PX * max(1.0, to_copy.scale)
        # One pixel at least, also if the square is beside the picture.
        left, top = (
            min(max(0, math.floor(low - margin)), limit - 1)
            for low, limit in zip(corners.min(axis=0), copy.size, strict=True)
        )
        right, bottom = (
            max(min(limit, math.ceil(high + margin)), start + 1)
            for high, limit, start in zip(corners.max(axis=0), copy.size, (left, top), strict=True)
        )
        window = copy.crop((left, top, right, bottom))
        if to_copy.scale > 1:
            window = _resized(window, (0, 0, *window.size), 1 / to_copy.scale)
        in_window = Similarity(to_copy.factor, to_copy.shift - complex(left, top))
        values = sample(
            to_planes(np.asarray(window, np.float32)),
            in_window.of_pixels(0, 0, side, side),
            (right - left, bottom - top),
        )
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)

    def _at_most(self, times: float) -> tuple[Image.Image, int]:
        """The smallest copy of which a pixel is not wider than `times` pixels, and its width."""
        halvings = max(0, math.floor(math.log2(times)))
        while len(self._copies) <= halvings:
            self._copies.append(self._copies[-1].reduce(2))
        return self._copies[halvings], 1 << halvings


def _resized(
    picture: Image.Image, part: tuple[float, float, float, float], scale: float
) -> Image.Image:
    """A part of the picture: left, top, right, bottom."""
    left, top, right, bottom = part
    size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC, box=part)
