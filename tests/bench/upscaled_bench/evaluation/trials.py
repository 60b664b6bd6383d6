"""What the networks are tried on: pictures that training never saw, reduced in several ways, whole
and damaged."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources, util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from upscaled_bench.evaluation.light import linear, stored

Pixels = NDArray[np.uint8]

KINDS = ("photograph", "text")

SHORT_SIDE = 1024
"""To this a larger photograph of a folder is reduced first: cameras are soft at the pixels' own
size, and the blocks of their JPEGs vanish."""

LARGEST = 768
"""Pixels to each side: of a larger picture only the middle is tried, for a few minutes."""

NOISE = 8.0
"""Standard deviation of the noise, in levels: a picture taken indoors, or a scan."""

_PHOTOGRAPHS: dict[str, Callable[[], Pixels]] = {
    "astronaut": data.astronaut,
    "coffee": data.coffee,
    "chelsea": data.chelsea,
    "rocket": data.rocket,
    "hubble": data.hubble_deep_field,
    "ihc": data.immunohistochemistry,
    "retina": data.retina,
    "motorcycle": lambda: _shipped("skimage.data", "motorcycle_left.png"),
}
"""The first four are those of the training log."""

_SAMPLES = ("china", "flower")
"""Of scikit-learn, if that is installed."""

_TEXT: dict[str, Callable[[], Pixels]] = {"page": data.page, "text": data.text}


@dataclass(frozen=True)
class Picture:
    """A picture to reduce, and to reach again."""

    name: str
    kind: str  # one of `KINDS`
    pixels: Pixels  # (H, W, 3)

    def truth(self, scale: int) -> Pixels:
        """Cropped to a multiple of `scale`."""
        height, width = (length // scale * scale for length in self.pixels.shape[:2])
        return self.pixels[:height, :width]

    def reduced(self, scale: int, condition: str) -> Pixels:
        """Reduced, and then perhaps damaged, as one of `CONDITIONS` says."""
        made = CONDITIONS[condition]
        small = made.reduce(self.truth(scale), scale)
        return made.damage(small, np.random.default_rng(zlib.crc32(self.name.encode())))


def pictures(folder: Path | None = None) -> list[Picture]:
    """Those of scikit-image, of scikit-learn if it is installed, and all in `folder`."""
    found = [Picture(name, "photograph", _middle(make())) for name, make in _PHOTOGRAPHS.items()]
    if util.find_spec("sklearn"):
        for name in _SAMPLES:
            pixels = _shipped("sklearn.datasets.images", f"{name}.jpg")
            found.append(Picture(name, "photograph", _middle(pixels)))
    for path in sorted(folder.iterdir()) if folder else ():
        with Image.open(path) as opened:
            found.append(Picture(path.stem, "photograph", _middle(_reduced(opened))))
    found += [Picture(name, "text", _middle(make())) for name, make in _TEXT.items()]
    return found


def _shipped(package: str, file: str) -> Pixels:
    with resources.files(package).joinpath(file).open("rb") as opened:
        return np.asarray(Image.open(opened).convert("RGB"))


def _reduced(photograph: Image.Image) -> Pixels:
    """(H, W, 3), its shorter side at most `SHORT_SIDE`."""
    ratio = min(1.0, SHORT_SIDE / min(photograph.size))
    size = (round(photograph.width * ratio), round(photograph.height * ratio))
    return np.asarray(photograph.convert("RGB").resize(size, Image.Resampling.LANCZOS))


def _middle(pixels: Pixels) -> Pixels:
    """(H, W) or (H, W, 3) to (H, W, 3), at most `LARGEST` a side."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    top, left = (max(length - LARGEST, 0) // 2 for length in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + LARGEST, left : left + LARGEST, :3])


@dataclass(frozen=True)
class Condition:
    """How a small picture was made.

    reduce: of (H, W, 3), multiples of the scale, in 8 bits.
    """

    reduce: Callable[[Pixels, int], Pixels]
    damage: Callable[[Pixels, np.random.Generator], Pixels]


def _resampled(kernel: Image.Resampling) -> Callable[[Pixels, int], Pixels]:
    def reduce(pixels: Pixels, scale: int) -> Pixels:
        size = (pixels.shape[1] // scale, pixels.shape[0] // scale)
        return np.asarray(Image.fromarray(pixels).resize(size, kernel))

    return reduce


def _area_in_linear_light(pixels: Pixels, scale: int) -> Pixels:
    height, width = (length // scale for length in pixels.shape[:2])
    blocks = linear(pixels / 255.0).reshape(height, scale, width, scale, 3)
    levels: Pixels = np.rint(stored(blocks.mean(axis=(1, 3))) * 255.0).astype(np.uint8)
    return levels


def _nothing(small: Pixels, _: np.random.Generator) -> Pixels:
    return small


def _jpeg(quality: int) -> Callable[[Pixels, np.random.Generator], Pixels]:
    def compress(small: Pixels, _: np.random.Generator) -> Pixels:
        buffer = io.BytesIO()
        Image.fromarray(small).save(buffer, "JPEG", quality=quality)  # with 4:2:0, the default
        return np.asarray(Image.open(buffer))

    return compress


def _noise(small: Pixels, rng: np.random.Generator) -> Pixels:
    noisy = small + rng.normal(0.0, NOISE, small.shape)
    levels: Pixels = np.rint(np.clip(noisy, 0, 255)).astype(np.uint8)
    return levels


_bicubic = _resampled(Image.Resampling.BICUBIC)

CONDITIONS = {
    "clean": Condition(_bicubic, _nothing),
    "by Lanczos": Condition(_resampled(Image.Resampling.LANCZOS), _nothing),
    "by area": Condition(_resampled(Image.Resampling.BOX), _nothing),
    "by area in linear light": Condition(_area_in_linear_light, _nothing),
    "JPEG 75": Condition(_bicubic, _jpeg(75)),
    "JPEG 50": Condition(_bicubic, _jpeg(50)),
    "JPEG 35": Condition(_bicubic, _jpeg(35)),
    "noise": Condition(_bicubic, _noise),
}
"""Reduced with Pillow's antialiased bicubic, unless the name says otherwise."""
