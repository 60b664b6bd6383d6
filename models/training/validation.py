"""The figures of the training log: what the weights can do so far, on pictures never trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data

from training.network import Compact, enlarge
from upscaled_bench.evaluation.edges import score_fields, score_lines
from upscaled_bench.evaluation.enlargers import resamplers
from upscaled_bench.evaluation.measures import luma, psnr
from upscaled_bench.evaluation.trials import Picture

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
    gain_rgb_jpeg: float  # the same, if the small picture was a JPEG
    gain_luma_jpeg: float
    below: int
    above: int
    outermost: int
    inside: int


class Validation:
    """`PHOTOGRAPHS`, reduced, and Lanczos's figures for them."""

    def __init__(self, scale: int) -> None:
        self._scale = scale
        pictures = [Picture(name, "photograph", make()) for name, make in PHOTOGRAPHS.items()]
        self._clean = _Trial(pictures, scale, "clean")
        self._jpeg = _Trial(pictures, scale, "JPEG 50")

    def score(self, network: Compact) -> Figures:
        """The figures of `network`, computed in float32."""
        large = partial(enlarge, network, dtype=torch.float32)
        clean, jpeg = self._clean.score(large), self._jpeg.score(large)
        lines, fields = score_lines(large, self._scale), score_fields(large, self._scale)
        return Figures(
            psnr_rgb=round(clean.rgb, 3),
            psnr_luma=round(clean.luma, 3),
            gain_rgb=round(clean.rgb - self._clean.lanczos.rgb, 3),
            gain_luma=round(clean.luma - self._clean.lanczos.luma, 3),
            gain_rgb_jpeg=round(jpeg.rgb - self._jpeg.lanczos.rgb, 3),
            gain_luma_jpeg=round(jpeg.luma - self._jpeg.lanczos.luma, 3),
            below=max(line.below for line in lines),
            above=max(line.above for line in lines),
            outermost=max(field.outermost for field in fields),
            inside=max(field.inside for field in fields),
        )


@dataclass(frozen=True)
class _Means:
    """PSNR over R, G and B and over luma, without a border of `scale` pixels."""

    rgb: float
    luma: float


class _Trial:
    """Pictures in one condition, and what Lanczos makes of them."""

    def __init__(self, pictures: list[Picture], scale: int, condition: str) -> None:
        self._inside = slice(scale, -scale)
        self._pairs = [
            (picture.reduced(scale, condition), picture.truth(scale)) for picture in pictures
        ]
        self.lanczos = self.score(resamplers(scale)[-1].enlarge)

    def score(self, large: Callable[[Pixels], Pixels]) -> _Means:
        inside = self._inside
        rgb, luminance = [], []
        for small, truth in self._pairs:
            wanted, guess = truth[inside, inside], large(small)[inside, inside]
            rgb.append(psnr(wanted, guess))
            luminance.append(psnr(luma(wanted), luma(guess)))
        return _Means(sum(rgb) / len(rgb), sum(luminance) / len(luminance))
