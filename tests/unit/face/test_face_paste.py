from __future__ import annotations

import cmath
import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from upscaled_imaging.rows import Picture
from upscaled_models.face.alignment import TEMPLATE, Similarity
from upscaled_models.face.faces import CROP_PX, Face, Floats
from upscaled_models.face.paste import FacePaste


def face_at(x: float, y: float, side: float, degrees: float = 0) -> Face:
    """A face whose square has its centre at x, y."""
    factor = side / CROP_PX * cmath.exp(1j * math.radians(degrees))
    middle = CROP_PX / 2 * (1 + 1j)
    from_crop = Similarity(factor, complex(x, y) - factor * middle)
    points = from_crop.apply(TEMPLATE)
    return Face((x - side / 2, y - side / 2, side, side), 1.0, points)


def picture(width: int, height: int, bands: int = 3, bits: int = 8) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 2**bits, (height, width, bands))
    return values.astype(np.uint8 if bits == 8 else np.uint16)


def blocks(pixels: np.ndarray, rows: int = 16) -> Iterator[np.ndarray]:
    for top in range(0, len(pixels), rows):
        yield pixels[top : top + rows]


def unchanged(crop: Floats) -> Floats:
    return crop


def pasted(pixels: np.ndarray, faces: Iterable[Face]) -> np.ndarray:
    height, width, bands = pixels.shape
    shape = Picture(width, height, bands, 8 * pixels.itemsize)
    paste = FacePaste(list(faces), shape, unchanged)
    return np.concatenate(list(paste.rows(blocks(pixels))))


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_network_that_changes_nothing_changes_no_pixel(bands: int, bits: int) -> None:
    pixels = picture(80, 60, bands, bits)
    sides = itertools.cycle((20, 50, 700))
    faces = [
        face_at(x, 25, next(sides), degrees)
        for x, degrees in zip(range(-10, 100, 20), range(0, 360, 15), strict=False)
    ]

    assert np.array_equal(pasted(pixels, faces), pixels)
