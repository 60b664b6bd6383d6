"""The figures of the training log: what the weights can do so far, on pictures never trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from training.edges import score_fields, score_lines
from training.measures import luma, psnr
from training.network import Compact, enlarge

Pixels = NDArray[np.uint8]

PHOTOGRAPHS: dict[str, Callable[[], Pixels]] = {
    "astronaut": data.astronaut,
    "coffee": data.coffee,
    "chelsea": data.chelsea,
    "rocket": data.rocket,
}


@dataclass(frozen=True)
class Figures:
    """Means over `PHOTOGRAPHS` in dB, and the worst of each measure of `edges.py` in levels."""

    psnr_rgb: float
    psnr_luma: float
    gain_rgb: float  # over Lanczos
    gain_luma: float
    below: int
    above: int
    outermost: int
    inside: int


class Validation:
    """`PHOTOGRAPHS`, reduced, and Lanczos's figures for them."""

    def __init__(self, scale: int) -> None:
        self._scale = scale
        self._pairs: list[tuple[Pixels, Pixels]] = []  # small, truth
        lanczos = []
        for photograph in PHOTOGRAPHS.values():
            pixels = photograph()
            height, width = (length // scale for length in pixels.shape[:2])
            truth = pixels[: height * scale, : width * scale]
            small = Image.fromarray(truth).resize((width, height), Image.Resampling.BICUBIC)
            large = small.resize((width * scale, height * scale), Image.Resampling.LANCZOS)
            self._pairs.append((np.asarray(small), truth))
            lanczos.append(np.asarray(large))
        self._lanczos = self._means(lanczos)

    def score(self, network: Compact) -> Figures:
        """The figures of `network`, computed in float32."""
        large = partial(enlarge, network, dtype=torch.float32)
        rgb, luminance = self._means([large(small) for small, _ in self._pairs])
        lines, fields = score_lines(large, self._scale), score_fields(large, self._scale)
        return Figures(
            psnr_rgb=round(rgb, 3),
            psnr_luma=round(luminance, 3),
            gain_rgb=round(rgb - self._lanczos[0], 3),
            gain_luma=round(luminance - self._lanczos[1], 3),
            below=max(line.below for line in lines),
            above=max(line.above for line in lines),
            outermost=max(field.outermost for field in fields),
            inside=max(field.inside for field in fields),
        )

    def _means(self, guesses: list[Pixels]) -> tuple[float, float]:
        """PSNR in RGB and in luma, without a border of `scale` pixels."""
        inside = slice(self._scale, -self._scale)
        rows = [
            (psnr(truth, guess), psnr(luma(truth), luma(guess)))
            for truth, guess in (
                (truth[inside, inside], guess[inside, inside])
                for (_, truth), guess in zip(self._pairs, guesses, strict=True)
            )
        ]
        return sum(row[0] for row in rows) / len(rows), sum(row[1] for row in rows) / len(rows)
