"""The colours under transparent pixels that an engine sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from upscaled_imaging.filledrows import FilledRows


def filled(pixels: np.ndarray, counts: list[int] | None = None) -> np.ndarray:
    position = 0

    def read(count: int) -> np.ndarray:
        nonlocal position
        rows = pixels[position : position + count]
        position += len(rows)
        return rows

    rows = FilledRows(read)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < len(pixels):
        parts.append(rows.rows((counts or [len(pixels)])[len(parts) % len(counts or [0])]))
    return np.concatenate(parts)


@hypothesis_settings(max_examples=40)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 40),
    bands=st.sampled_from([2, 4]),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    counts=st.lists(st.integers(1, 200), min_size=1, max_size=4),
    visible=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_visible_pixels_are_kept_and_blocks_do_not_show(
    height: int,
    width: int,
    bands: int,
    dtype: type,
    counts: list[int],
    visible: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, np.iinfo(dtype).max, (height, width, bands), dtype=dtype)
    pixels[rng.random((height, width)) > visible, -1] = 0
    found = filled(pixels, counts)
    assert np.array_equal(found[:, :, -1], pixels[:, :, -1])
    seen = pixels[:, :, -1] > 0
    assert np.array_equal(found[seen], pixels[seen])
    assert np.array_equal(found, filled(pixels))


@pytest.mark.parametrize("size", [(90, 33), (200, 200), (64, 1)])
def test_one_colour_spreads_all_around(size: tuple[int, int]) -> None:
    pixels = np.zeros((*size, 4), np.uint8)
    pixels[size[0] // 2, size[1] // 2] = (200, 120, 40, 255)
    found = filled(pixels)
    near = found[max(0, size[0] // 2 - 60) : size[0] // 2 + 60]
    assert (near[:, :, :3] == (200, 120, 40)).all()


def test_each_side_takes_the_colour_nearest_to_it() -> None:
    pixels = np.zeros((40, 120, 4), np.uint8)
    pixels[:, :10] = (255, 0, 0, 255)
    pixels[:, -10:] = (0, 0, 255, 255)
    red, _, blue = filled(pixels)[20, :, :3].astype(int).T
    assert red[12] > 240
    assert blue[-13] > 240
    assert (np.diff(red[10:-10]) <= 1).all()


def test_almost_transparent_pixels_weigh_little() -> None:
    pixels = np.zeros((20, 20, 4), np.uint8)
    pixels[:, 8] = (0, 0, 0, 1)
    pixels[:, 9:] = (200, 200, 200, 255)
    assert filled(pixels)[10, 0, 0] > 150
