"""The files that a sink writes: exact pixels in each format, cropped and resampled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from sinks import output_at, pixels_in, write_file, write_rows
from upscaled_imaging import png, tiff, write
from upscaled_imaging.destinations import FileDestination
from upscaled_imaging.dimensions import Plan
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.output import Output
from upscaled_imaging.write import open_sink
from upscaled_protocol.messages import Size

RNG = np.random.default_rng(11)
Upscale = Callable[..., str]


@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["png", "tiff"]),
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    bands=st.integers(1, 4),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    cuts=st.lists(st.integers(1, 70), max_size=5),
    noise=st.booleans(),
)
def test_png_and_tiff_hold_exactly_the_rows_written(
    tmp_path: Path,
    kind: str,
    width: int,
    height: int,
    bands: int,
    dtype: type,
    cuts: list[int],
    noise: bool,
) -> None:
    top = int(np.iinfo(dtype).max) if noise else 3
    pixels = RNG.integers(0, top, (height, width, bands), dtype=dtype, endpoint=True)
    path = tmp_path / f"out.{kind}"
    size = Size(width=width, height=height)
    output = output_at(path, kind, width, height)
    with open_sink(output, size, bands, pixels.itemsize * 8) as sink:
        for part in np.split(pixels, sorted({cut for cut in cuts if cut < height})):
            sink.write(part)
        sink.commit()
    assert np.array_equal(pixels_in(path), pixels)


@pytest.mark.parametrize("processors", [1, 2, 5])
@pytest.mark.parametrize(("bands", "dtype"), [(3, np.uint8), (4, np.uint16)])
def test_a_png_is_one_stream_for_any_number_of_processors(
    tmp_path: Path, processors: int, bands: int, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(png, "computing_threads", lambda: processors)
    # Blocks of several parts, of one part, and smaller; smooth, like upscaled pictures.
    pixels = RNG.integers(0, 5, (1100, 700, bands), dtype=dtype).cumsum(0, dtype=dtype)
    path = tmp_path / "out.png"
    size = Size(width=700, height=1100)
    with open_sink(output_at(path, "png", 700, 1100), size, bands, pixels.itemsize * 8) as sink:
        for part in np.split(pixels, [700, 701, 702, 990]):
            sink.write(part)
        sink.commit()
    # libpng and Pillow both check the stream's checksum and that of each chunk.
    assert np.array_equal(pixels_in(path), pixels)
    if dtype is np.uint8:
        assert np.array_equal(np.asarray(Image.open(path)), pixels)


def test_tall_tiffs_have_many_strips_and_read_back(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 65536, (700, 300, 3), dtype=np.uint16)
    write_file(tmp_path / "out.tif", "tiff", pixels)
    assert np.array_equal(pixels_in(tmp_path / "out.tif"), pixels)


def test_a_tiff_past_four_gigabytes_is_a_big_tiff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = RNG.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    write_file(tmp_path / "small.tif", "tiff", pixels)
    monkeypatch.setattr(tiff, "_LAST_SMALL_OFFSET", 200_000)
    write_file(tmp_path / "big.tif", "tiff", pixels)
    assert (tmp_path / "small.tif").read_bytes()[:4] == b"II\x2a\0"
    assert (tmp_path / "big.tif").read_bytes()[:4] == b"II\x2b\0"
    assert np.array_equal(pixels_in(tmp_path / "big.tif"), pixels)


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["webp", "avif"])
def test_quality_100_is_lossless(tmp_path: Path, kind: str, bands: int) -> None:
    pixels = RNG.integers(0, 256, (33, 47, bands), dtype=np.uint8)
    write_file(tmp_path / "out", kind, pixels, quality=100)
    colours = pixels[:, :, : 1 if bands < 3 else 3]
    expected = np.broadcast_to(colours, (33, 47, 3))
    found = pixels_in(tmp_path / "out")
    assert np.array_equal(found[:, :, :3], expected)
    if bands in (2, 4):
        assert np.array_equal(found[:, :, 3], pixels[:, :, -1])


@pytest.mark.parametrize("kind", ["jpeg", "webp", "avif"])
def test_lossy_formats_follow_quality(tmp_path: Path, kind: str) -> None:
    # Gray noise and smooth colour, because WebP halves the resolution of colour.
    noise = RNG.integers(0, 40, (120, 160, 1), dtype=np.uint8)
    ramp = np.linspace(0, 200, 160, dtype=np.uint8)[None, :, None]
    pixels = np.concatenate([noise + ramp, noise + 50, noise + 90], axis=2)
    sizes, errors = [], []
    for quality in (30, 95):
        path = tmp_path / f"q{quality}"
        write_file(path, kind, pixels, quality=quality)
        sizes.append(path.stat().st_size)
        errors.append(np.abs(pixels_in(path).astype(int) - pixels).mean())
    assert sizes[0] < sizes[1]
    assert errors[1] < errors[0]
    assert errors[1] < 2.5


def test_jpeg_keeps_full_chroma_resolution(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::2] = (255, 0, 0)
    pixels[:, 1::2] = (0, 0, 255)
    write_file(tmp_path / "out.jpg", "jpeg", pixels)
    assert np.abs(pixels_in(tmp_path / "out.jpg").astype(int) - pixels).max() < 40


def test_eight_bit_formats_round_sixteen_bits(tmp_path: Path) -> None:
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    write_file(tmp_path / "out", "webp", np.broadcast_to(deep, (256, 256, 3)).copy(), quality=100)
    expected = np.rint(deep.astype(np.float64) / 257).astype(np.uint8)
    assert np.array_equal(pixels_in(tmp_path / "out"), np.broadcast_to(expected, (256, 256, 3)))


def test_avif_keeps_more_than_eight_bits(tmp_path: Path) -> None:
    ramp = np.linspace(20_000, 22_000, 256).astype(np.uint16)
    deep = np.broadcast_to(ramp[None, :, None], (64, 256, 3)).copy()
    write_file(tmp_path / "out", "avif", deep, quality=95)
    found = pixels_in(tmp_path / "out")
    assert found.dtype == np.uint16
    assert np.abs(found.astype(int) - deep).mean() < 65536 / 256 / 4


def test_jpeg_puts_transparency_on_white(tmp_path: Path, upscale: Upscale, context: Any) -> None:
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[:, :8] = (10, 200, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    path = upscale(image_path=str(tmp_path / "in.png"), output_format="jpeg")
    found = pixels_in(Path(path))
    assert found.shape == (32, 32, 3)
    assert np.abs(found[:, :12].astype(int) - (10, 200, 30)).max() < 12
    assert found[:, 20:].min() > 245
    assert "white" in context.warnings[0]


@pytest.mark.parametrize("anchor", ["top-left", "center", "bottom-right"])
def test_the_crop_is_done_at_its_position(tmp_path: Path, upscale: Upscale, anchor: str) -> None:
    pixels = RNG.integers(0, 256, (30, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    path = upscale(
        image_path=str(tmp_path / "in.png"), target_width=40, target_height=40, crop=anchor
    )
    top = {"top-left": 0, "center": 10, "bottom-right": 20}[anchor]
    whole = pixels.repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(pixels_in(Path(path)), whole[top : top + 40])


@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg", "webp"])
def test_rows_below_a_crop_are_taken_and_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    monkeypatch.setattr(write, "_QUEUE_BYTES", 1000)
    scaled, kept = Size(width=100, height=300), Size(width=100, height=20)
    output = Output(
        FileDestination(tmp_path / "out"), kind, None, Plan(1.0, scaled, kept), Metadata()
    )
    with open_sink(output, scaled, 3, 8) as sink:
        write_rows(sink, 300)
        sink.commit()
    assert pixels_in(tmp_path / "out").shape == (20, 100, 3)


def test_an_output_of_another_size_than_the_engine_made_is_resampled(
    tmp_path: Path, upscale: Upscale
) -> None:
    Image.fromarray(np.full((30, 20, 3), 77, np.uint8)).save(tmp_path / "in.png")
    path = upscale(times=4, image_path=str(tmp_path / "in.png"), target_width=51)
    found = pixels_in(Path(path))
    assert found.shape == (77, 51, 3)
    assert (found == 77).all()
