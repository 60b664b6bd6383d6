"""A cheap look at a picture for damage that it has already: strong compression, or noise.

The look takes the file's header. If that says nothing bad, it takes up to 16 windows of 128x128
pixels from the rows that are read first. These rows are held and given out afterwards, so that the
picture is decoded once. Windows have the picture's own pixels, because a reduced copy has neither
blocks nor noise. It takes about 50 ms for a picture of any size, and less for one below 0.3
megapixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from upscaled_imaging.jpegtraces import find_jpeg
from upscaled_imaging.luma import LUMA
from upscaled_imaging.noise import noise_level
from upscaled_imaging.read import Source

# The most memory for rows that are read ahead: 8 megapixels of 8-bit RGB.
_HELD_BYTES = 24 * 1024 * 1024
# A multiple of 8, as `find_jpeg` needs it.
_WINDOW = 128
_MOST_WINDOWS = 16
# The search for the blocks' grid takes most of the time: about 2 ms per window.
_MOST_FOR_JPEG = 8
# A window must hold some blocks.
_LEAST_SIDE = 16
# Below these qualities a picture counts as damaged: there, compact-x4-clean comes closer to the
# undamaged picture than compact-x4 in 24 of 25 cases (docs/models.md). 75 and 80 are what most
# programs store. WebP smooths its blocks.
LEAST_QUALITY = {"JPEG": 82, "WebP": 50}
# From this on, in levels of 255, measured in the same way; for photographs it is closer from 4 on.
# Cameras and film leave 1 to 3, weak light and scanners more.
LEAST_NOISE = 6.0
_LUMA = np.array(LUMA, np.float32)


@dataclass(frozen=True)
class Finding:
    """What the look has found. text: a sentence without its first capital and its full stop."""

    is_damaged: bool
    text: str


def look_for_damage(source: Source) -> Finding:
    """Look at a picture of which no rows were taken. Raises `JobError` as `Source.rows` does."""
    if (compressed := find_strong_compression(source)) is not None:
        return compressed
    windows = list(_windows(source))
    if not windows:
        return Finding(False, "the picture is too small to be judged")
    noise = noise_level(windows)
    if noise >= LEAST_NOISE:
        return Finding(True, f"the picture has noise of about {noise:.0f} levels")
    step = -(-len(windows) // _MOST_FOR_JPEG)
    quality = find_jpeg([_luma(window) for window in windows[::step]])
    if quality is not None and quality < LEAST_QUALITY["JPEG"]:
        return Finding(True, f"the pixels were in a JPEG of about quality {quality}")
    if source.compression is not None:
        return Finding(False, f"the file is {source.compression}, and no noise was found")
    return Finding(False, "no noise and no strong compression was found")


def find_strong_compression(source: Source) -> Finding | None:
    """What the file's header says, if the picture counts as damaged by it. Takes no rows."""
    file = source.compression
    if file is None or file.quality >= LEAST_QUALITY[file.format]:
        return None
    return Finding(True, f"the file is {file}")


def _windows(source: Source) -> Iterator[np.ndarray]:
    """(H, W, C) of float32, 0 to 255, with 1 or 3 channels; transparent pixels are black."""
    held = source.hold(_HELD_BYTES, _WINDOW)
    places = [
        (band, left)
        for band, rows in enumerate(held)
        for left in range(0, rows.shape[1], _WINDOW)
        if min(len(rows), rows.shape[1] - left) >= _LEAST_SIDE
    ]
    count = min(len(places), _MOST_WINDOWS)
    for number in range(count):
        band, left = places[(2 * number + 1) * len(places) // (2 * count)]
        pixels = held[band][:, left : left + _WINDOW].astype(np.float32)
        if source.bits > 8:
            pixels /= 257
        if source.has_alpha:
            pixels = np.where(pixels[:, :, -1:] > 0, pixels[:, :, :-1], np.float32(0))
        yield pixels


def _luma(pixels: np.ndarray) -> np.ndarray:
    luma: np.ndarray = pixels @ _LUMA if pixels.shape[2] == 3 else pixels[:, :, 0]
    return luma
