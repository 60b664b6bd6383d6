"""The score of a picture: a number, in which 1 is a whole 4K screen.

resolution            width x height / (3840 x 2160), from the file's header
effective-resolution  the same for the pixels that the picture needs
module:function       the user's own: a function of a `Path` that returns a float
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Score = Callable[[Path], float]

_FULL_PIXELS = 3840 * 2160
# A picture that was shrunk and enlarged again, and that comes within this of itself, did not need
# the pixels.
_SAME_DB = 40.0
# Sides that are tried, as shares of the picture's, the smallest first.
_SHARES = (0.25, 0.3, 0.35, 0.42, 0.5, 0.59, 0.71, 0.84)
# The picture is measured in so many crops down and across, each of at most so many pixels per side.
_CROPS = 3
_CROP_SIDE = 384


class NoScoreError(Exception):
    """Raised if the file is no picture that can be scored."""


class ScoreFailedError(Exception):
    """Raised if the user's own score fails, or is no number."""


def resolution(path: Path) -> float:
    """Width x height / (3840 x 2160). Reads the header alone. Raises `NoScoreError`."""
    with _opened(path) as image:
        return image.width * image.height / _FULL_PIXELS


def effective_resolution(path: Path) -> float:
    """`resolution` times the share of the pixels that the picture needs.

    That is the smallest size from which the picture can be made again within 40 dB: a picture that
    was enlarged twofold before gets a quarter. Noise, and enlargement by repeating pixels, hide
    it. Raises `NoScoreError`.
    """
    with _opened(path) as image:
        try:
            gray = image.convert("L")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise NoScoreError(f"{path} cannot be decoded: {error}") from None
        crops = _crops(gray)
        share = next((one for one in _SHARES if _error_db(crops, one) >= _SAME_DB), 1.0)
        return image.width * image.height / _FULL_PIXELS * share**2


def find_score(name: str) -> Score:
    """A score by its name, or the user's own as `module:function`. Raises `ValueError`."""
    if name in SCORES:
        return SCORES[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise ValueError(f"no score {name!r}: use {', '.join(SCORES)}, or module:function")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the score {name!r} cannot be imported: {error}") from None
    if not callable(found):
        raise ValueError(f"the score {name!r} is no function")
    return _own(name, found)


SCORES: dict[str, Score] = {
    "resolution": resolution,
    "effective-resolution": effective_resolution,
}


def _own(name: str, function: Callable[[Path], Any]) -> Score:
    def score(path: Path) -> float:
        try:
            value = float(function(path))
        except NoScoreError:
            raise
        except Exception as error:  # any error of a function that is not ours
            raise ScoreFailedError(
                f"the score {name} failed: {type(error).__name__}: {error}"
            ) from error
        if not math.isfinite(value):
            raise ScoreFailedError(f"the score {name} is {value}: it must be a finite number")
        return value

    return score


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise NoScoreError(f"{path} is no picture that can be scored: {error}") from None


def _crops(gray: Image.Image) -> list[Image.Image]:
    width, height = min(gray.width, _CROP_SIDE), min(gray.height, _CROP_SIDE)
    return [
        gray.crop((left, top, left + width, top + height))
        for left in _places(gray.width - width)
        for top in _places(gray.height - height)
    ]


def _places(room: int) -> list[int]:
    return sorted({round(room * number / (_CROPS - 1)) for number in range(_CROPS)})


def _error_db(crops: list[Image.Image], share: float) -> float:
    """The PSNR between the crops and the same, shrunk to a share of their sides and enlarged."""
    squares = 0.0
    pixels = 0
    for crop in crops:
        size = max(round(crop.width * share), 1), max(round(crop.height * share), 1)
        shrunk = crop.resize(size, Image.Resampling.LANCZOS)
        again = shrunk.resize(crop.size, Image.Resampling.BICUBIC)
        difference = np.asarray(crop, np.float32) - np.asarray(again, np.float32)
        squares += float(np.square(difference).sum())
        pixels += difference.size
    return float(10 * np.log10(255**2 * pixels / squares)) if squares else float("inf")
