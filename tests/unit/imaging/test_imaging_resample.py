"""The resampler against its definition, and against Pillow's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from upscaled_imaging.resample import resample

RNG = np.random.default_rng(5)
Doubles = NDArray[np.float64]


def resized(
    pixels: np.ndarray, width: int, height: int, *, bits: int | None = None, at_once: int = 16
) -> np.ndarray:
    blocks = (pixels[top : top + at_once] for top in range(0, len(pixels), at_once))
    source = (pixels.shape[1], pixels.shape[0])
    found = resample(
        blocks, source=source, target=(width, height), bits=bits or pixels.itemsize * 8
    )
    return np.concatenate(list(found))


def to_linear(coded: np.ndarray, top: int) -> Doubles:
    scaled = coded.astype(np.float64) / top
    return np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)


def to_coded(linear: Doubles, top: int) -> Doubles:
    linear = np.clip(linear, 0, 1)
    coded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    found: Doubles = np.rint(coded * top)
    return found


def by_pillow(plane: Doubles, width: int, height: int) -> Doubles:
    picture = Image.fromarray(plane.astype(np.float32), mode="F")
    small = picture.resize((width, height), Image.Resampling.LANCZOS)
    found: Doubles = np.asarray(small).astype(np.float64)
    return found


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(20, 15), (31, 64), (150, 131), (61, 47), (5, 3), (1, 1)])
def test_it_equals_pillows_lanczos_in_linear_light(dtype: type, size: tuple[int, int]) -> None:
    top = int(np.iinfo(dtype).max)
    pixels = RNG.integers(0, top, (47, 61, 3), dtype=dtype, endpoint=True)
    found = resized(pixels, *size).astype(np.float64)
    for band in range(3):
        expected = to_coded(by_pillow(to_linear(pixels[:, :, band], top), *size), top)
        # With 16 bits, errors of single precision show at the dark end, where the curve is steep.
        assert np.abs(found[:, :, band] - expected).max() <= (1 if dtype is np.uint8 else 40)


def test_a_checkerboard_keeps_its_light() -> None:
    board = np.zeros((64, 64, 1), np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 255
    middle = resized(board, 16, 16)[4:-4, 4:-4].astype(int)
    assert np.abs(middle - 188).max() <= 1  # half the light; 128 would be a fifth of it


@hypothesis_settings(max_examples=60)
@given(
    source=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    target=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    bands=st.integers(1, 4),
    bits=st.sampled_from([8, 16]),
    value=st.integers(0, 255),
)
def test_an_even_picture_stays_even(
    source: tuple[int, int], target: tuple[int, int], bands: int, bits: int, value: int
) -> None:
    dtype = np.uint8 if bits == 8 else np.uint16
    value = value if bits == 8 else value * 257
    pixels = np.full((source[1], source[0], bands), value, dtype)
    if bands in (2, 4):
        pixels[:, :, -1] = np.iinfo(dtype).max
    found = resized(pixels, *target)
    assert found.shape == (target[1], target[0], bands)
    assert found.dtype == dtype
    colours = found[:, :, : bands - (bands in (2, 4))].astype(int)
    assert np.abs(colours - value).max() <= (0 if bits == 8 else 1)


@hypothesis_settings(max_examples=30)
@given(
    height=st.integers(1, 120),
    target=st.integers(1, 200),
    bands=st.integers(1, 4),
    at_once=st.integers(1, 50),
)
def test_rows_do_not_depend_on_the_blocks_of_the_input(
    height: int, target: int, bands: int, at_once: int
) -> None:
    pixels = RNG.integers(0, 256, (height, 13, bands), dtype=np.uint8)
    whole = resized(pixels, 17, target, at_once=height)
    assert np.array_equal(resized(pixels, 17, target, at_once=at_once), whole)


def test_sixteen_bits_may_become_eight() -> None:
    deep = np.full((10, 10, 3), 30_000, np.uint16)
    found = resized(deep, 7, 7, bits=8)
    assert found.dtype == np.uint8
    assert (found == round(30_000 / 257)).all()


@pytest.mark.parametrize("size", [(24, 24), (100, 100)])
def test_colour_under_transparent_pixels_does_not_bleed(size: tuple[int, int]) -> None:
    pixels = np.zeros((48, 48, 4), np.uint8)  # black, and fully transparent
    pixels[8:40, 8:40] = (250, 180, 60, 255)
    found = resized(pixels, *size).astype(int)
    seen = found[:, :, 3] >= 24
    assert np.abs(found[seen][:, :3] - (250, 180, 60)).max() <= 6


def test_colour_is_kept_if_all_pixels_are_transparent() -> None:
    pixels = np.full((40, 40, 4), (10, 200, 90, 0), np.uint8)
    found = resized(pixels, 25, 25).astype(int)
    assert np.abs(found - (10, 200, 90, 0)).max() <= 1
