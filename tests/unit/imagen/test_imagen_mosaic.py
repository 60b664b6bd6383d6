"""Tiles and alpha, put together again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import pyvips

from upscaled_imaging.resample import resample
from upscaled_models.imagen.alpha import enlarged
from upscaled_models.imagen.layout import lay_out
from upscaled_models.imagen.mosaic import join
from upscaled_models.imagen.picture import encoded, open_answer
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size

NOISE = np.random.default_rng(0)


def reader(pixels: np.ndarray) -> Callable[[int], np.ndarray]:
    """Rows of a picture, one read after the other."""
    given = 0

    def read(count: int) -> np.ndarray:
        nonlocal given
        given += count
        return pixels[given - count : given]

    return read


@pytest.mark.parametrize("tile_size", [32, 100, 999])
@pytest.mark.parametrize("factor", [2, 3])
def test_tiles_of_one_picture_join_to_that_picture(tile_size: int, factor: int) -> None:
    layout = lay_out(Size(width=217, height=151), factor, tile=True, tile_size=tile_size)
    whole = NOISE.integers(0, 256, (151 * factor, 217 * factor, 4), np.uint8)
    bands = (
        [
            reader(
                whole[
                    row.start * factor : row.stop * factor, one.start * factor : one.stop * factor
                ]
            )
            for one in layout.columns
        ]
        for row in layout.rows
    )
    assert np.array_equal(np.concatenate(list(join(bands, layout))), whole)


def test_tiles_that_disagree_fade_into_each_other() -> None:
    layout = lay_out(Size(width=300, height=300), 2, tile=True, tile_size=200)
    assert layout.calls == 4
    levels = iter([0, 100, 100, 200])
    bands = (
        [
            reader(np.full((row.length * 2, one.length * 2, 1), next(levels), np.uint8))
            for one in layout.columns
        ]
        for row in layout.rows
    )
    joined = np.concatenate(list(join(bands, layout)))[:, :, 0].astype(int)
    assert (joined[0, 0], joined[0, -1], joined[-1, 0], joined[-1, -1]) == (0, 100, 100, 200)
    # 50 pixels of the picture are shared, 100 of the result: one step a pixel, and no seam.
    assert np.abs(np.diff(joined, axis=0)).max() <= 2
    assert np.abs(np.diff(joined, axis=1)).max() <= 2


def test_alpha_comes_out_the_same_however_its_rows_are_asked_for() -> None:
    alpha = NOISE.integers(0, 256, (70, 40), np.uint8)
    whole = enlarged(alpha, 0, 210, 3)
    cut = [enlarged(alpha, top, min(64, 210 - top), 3) for top in range(0, 210, 64)]
    assert whole.shape == (210, 120, 1)
    assert np.array_equal(np.concatenate(cut), whole)


@pytest.mark.parametrize("top", [255, 65535])
def test_alpha_stays_opaque_and_clear_up_to_the_edge(top: int) -> None:
    alpha = np.zeros((40, 40), np.uint8 if top == 255 else np.uint16)
    alpha[10:30, 10:30] = top
    large = enlarged(alpha, 0, 160, 4)[:, :, 0]
    assert (large[44:116, 44:116] == 255).all()
    outside = np.ones_like(large, dtype=bool)
    outside[36:124, 36:124] = False
    assert (large[outside] == 0).all()


def test_a_picture_is_sent_without_loss_and_as_jpeg_only_if_that_is_too_large() -> None:
    smooth = np.zeros((400, 300, 3), np.uint8)
    assert encoded(smooth)[1] == "image/png"
    noise = NOISE.integers(0, 256, (2061, 2061, 3), np.uint8)
    data, mime_type = encoded(noise)
    assert mime_type == "image/jpeg"
    assert 1_000_000 < len(data) <= 10_000_000


def test_an_answer_of_another_size_but_the_right_shape_is_resampled() -> None:
    gradient = np.tile(np.arange(0, 200, dtype=np.uint8)[:, None, None], (1, 100, 3))
    warnings: list[str] = []
    read = open_answer(encoded(gradient)[0], Size(width=200, height=400), 3, warnings.append)
    assert read(400).shape == (400, 200, 3)
    assert "100x200" in warnings[0]


def test_an_answer_of_another_shape_is_refused() -> None:
    square = encoded(np.zeros((100, 100, 3), np.uint8))[0]
    with pytest.raises(JobError, match="100x100, not 200x400") as refused:
        open_answer(square, Size(width=200, height=400), 3, print)
    assert refused.value.code == ErrorCode.UPSTREAM_UNAVAILABLE


def test_an_answer_that_is_smaller_than_what_was_sent_is_refused() -> None:
    blank = encoded(np.zeros((1, 1, 3), np.uint8))[0]
    with pytest.raises(JobError, match="1x1, not 200x200") as refused:
        open_answer(blank, Size(width=200, height=200), 3, print)
    assert refused.value.code == ErrorCode.UPSTREAM_UNAVAILABLE


def test_an_answer_of_more_pixels_than_the_service_gives_is_refused() -> None:
    huge = pyvips.Image.black(8000, 4000, bands=3).pngsave_buffer()
    with pytest.raises(JobError, match="8000x4000, not 200x100") as refused:
        open_answer(huge, Size(width=200, height=100), 3, print)
    assert refused.value.code == ErrorCode.UPSTREAM_UNAVAILABLE


def test_an_answer_that_breaks_off_is_upstream_unavailable() -> None:
    data = encoded(NOISE.integers(0, 256, (200, 200, 3), np.uint8))[0]
    read = open_answer(data[: len(data) // 2], Size(width=200, height=200), 3, print)
    with pytest.raises(JobError) as broken:
        read(200)
    assert broken.value.code == ErrorCode.UPSTREAM_UNAVAILABLE


def test_a_gray_picture_comes_back_gray() -> None:
    gray = NOISE.integers(0, 256, (50, 40, 1), np.uint8)
    rgb = np.repeat(gray, 3, axis=2)
    large = np.concatenate(list(resample([rgb], source=(40, 50), target=(80, 100), bits=8)))
    read = open_answer(encoded(large)[0], Size(width=80, height=100), 1, print)
    assert np.array_equal(read(100), large[:, :, :1])
