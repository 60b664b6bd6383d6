"""What networks are compared with: Pillow's resampling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
    "Lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Enlarger:
    """A way to enlarge pictures (H, W, 3) `scale` times.

    chosen: the name of the model that it takes for a picture; None if it is always the same.
    """

    name: str
    scale: int
    enlarge: Callable[[Pixels], Pixels]
    chosen: Callable[[Pixels], str] | None = None


def resamplers(scale: int) -> list[Enlarger]:
    """Nearest, bicubic and Lanczos, as Pillow has them."""

    def resampler(name: str) -> Enlarger:
        def enlarge(small: Pixels) -> Pixels:
            size = (small.shape[1] * scale, small.shape[0] * scale)
            return np.asarray(Image.fromarray(small).resize(size, RESAMPLING[name]))

        return Enlarger(name, scale, enlarge)

    return [resampler(name) for name in RESAMPLING]
