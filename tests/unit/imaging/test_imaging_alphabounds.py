"""Enlarged alpha stays between the values of the source pixels around it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upscaled_imaging.alphabounds import AlphaBounds, alpha_bounds


@settings(max_examples=30)
@given(
    height=st.integers(1, 8),
    width=st.integers(1, 8),
    factor=st.sampled_from([1, 2, 3, 4]),
    rows=st.integers(1, 40),
    seed=st.integers(0, 100),
)
def test_bounds_are_those_of_nine_source_pixels_in_bands_of_any_height(
    height: int, width: int, factor: int, rows: int, seed: int
) -> None:
    source = np.random.default_rng(seed).integers(0, 65536, (height, width), dtype=np.uint16)
    bounds = AlphaBounds(height, factor)
    bounds.push(source[:1])
    bounds.push(source[1:])
    tops = range(0, height * factor, rows)
    bands = [bounds.take(min(rows, height * factor - top)) for top in tops]
    low, high = (np.concatenate(band) for band in zip(*bands, strict=True))
    assert low.shape == high.shape == (height * factor, width * factor)
    for row, column in np.ndindex(low.shape):
        y, x = row // factor, column // factor
        around = source[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        assert (low[row, column], high[row, column]) == (around.min(), around.max())


def test_bounds_of_rows_in_the_middle_need_no_rows_before_them() -> None:
    source = np.random.default_rng(3).integers(0, 256, (9, 5), dtype=np.uint8)
    whole = alpha_bounds(source, 0, 27, 3)
    part = alpha_bounds(source, 10, 7, 3)
    assert all(np.array_equal(some, all_[10:17]) for some, all_ in zip(part, whole, strict=True))


@pytest.mark.parametrize("pushed", [0, 1, 2])
def test_bounds_need_the_source_row_below_them(pushed: int) -> None:
    bounds = AlphaBounds(5, 2)
    for _ in range(pushed):
        bounds.push(np.zeros((1, 3), np.uint8))
    with pytest.raises(ValueError, match="need more source rows"):
        bounds.take(4)
