"""The look for compression and noise, on pictures as files and as pixels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("PIL", reason="the pictures of the evaluation come with it")
pytest.importorskip("skimage", reason="the pictures of the evaluation come with it")

from PIL import Image

from recording import RecordingContext
from upscaled_bench.evaluation.trials import CONDITIONS, Picture, pictures
from upscaled_imaging.compression import Compression, find_compression
from upscaled_imaging.damage import Finding, look_for_damage
from upscaled_imaging.jpegtraces import find_jpeg
from upscaled_imaging.luma import LUMA
from upscaled_imaging.noise import noise_level
from upscaled_imaging.read import open_source
from upscaled_imaging.settings import PictureSettings
from upscaled_protocol.configs import ImageConfig

Pixels = NDArray[np.uint8]
PICTURES = {picture.name: picture for picture in pictures()}


def encoded(pixels: Pixels, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def look(folder: Path, data: bytes) -> Finding:
    path = folder / "picture"
    path.write_bytes(data)
    config = ImageConfig(image_path=str(path))
    with open_source(config, PictureSettings(), RecordingContext()) as source:
        return look_for_damage(source)


def header(kind: str, data: bytes) -> Compression | None:
    return find_compression(kind, lambda at, count: data[at : at + count])


@pytest.fixture(scope="module")
def coffee() -> Pixels:
    """A clean photograph of 150x100 pixels."""
    return PICTURES["coffee"].reduced(4, "clean")


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
def test_a_jpegs_quality_is_read_from_its_tables(coffee: Pixels, quality: int) -> None:
    data = encoded(coffee, "JPEG", quality=quality, progressive=quality > 50)
    assert header("jpeg", data) == Compression("JPEG", quality, "4:2:0")


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_a_jpegs_subsampling_is_read(coffee: Pixels, subsampling: str) -> None:
    found = header("jpeg", encoded(coffee, "JPEG", quality=60, subsampling=subsampling))
    assert str(found) == f"a JPEG of about quality 60 ({subsampling})"
    gray = header("jpeg", encoded(coffee[:, :, 1], "JPEG", quality=60))
    assert str(gray) == "a JPEG of about quality 60"


@pytest.mark.parametrize("quality", [40, 60, 80, 95])
def test_a_webps_quality_is_read_from_its_frame(coffee: Pixels, quality: int) -> None:
    found = header("webp", encoded(coffee, "WEBP", quality=quality))
    assert found is not None
    assert abs(found.quality - quality) <= 10
    seen_through = np.dstack([coffee, np.full(coffee.shape[:2], 9, np.uint8)])
    assert header("webp", encoded(seen_through, "WEBP", quality=quality)) is not None
    assert header("webp", encoded(coffee, "WEBP", lossless=True)) is None


def test_a_header_that_is_cut_off_or_wrong_tells_nothing(coffee: Pixels) -> None:
    for kind in ("jpeg", "webp"):
        data = encoded(coffee, kind.upper(), quality=40)
        for length in range(min(len(data), 400)):
            header(kind, data[:length])
        for at in range(2, 300):
            header(kind, data[:at] + b"\xff" + data[at + 1 :])
    assert header("jpeg", b"\xff\xd8\xff\xdb\x00\x04") is None
    assert header("png", encoded(coffee)) is None


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
def test_every_picture_of_the_evaluation_is_judged_by_its_pixels(
    tmp_path: Path, picture: Picture, condition: str
) -> None:
    pixels = picture.reduced(4, condition)
    finding = look(tmp_path, encoded(pixels, compress_level=1))
    assert finding.is_damaged == (condition == "noise" or condition.startswith("JPEG"))
    if condition.startswith("JPEG"):
        quality = condition.removeprefix("JPEG ")
        found = find_jpeg([(pixels @ np.array(LUMA)).astype(np.float32)])
        assert found is not None
        assert abs(found - int(quality)) <= 2
        assert finding.is_damaged == finding.text.endswith(f"a JPEG of about quality {found}")
    elif condition == "noise":
        assert finding.text.startswith("the picture has noise of about ")


def test_a_jpeg_is_found_after_it_was_cut_or_stored_again(tmp_path: Path, coffee: Pixels) -> None:
    jpeg = np.asarray(Image.open(io.BytesIO(encoded(coffee, "JPEG", quality=50))))
    sentence = "the pixels were in a JPEG of about quality 5"
    for later in (
        encoded(jpeg[3:, 5:]),
        encoded(np.rot90(jpeg)),
        encoded(jpeg, "JPEG", quality=95, subsampling="4:4:4"),
        encoded(np.dstack([jpeg, np.full(jpeg.shape[:2], 255, np.uint8)])),
        encoded(np.asarray(Image.fromarray(jpeg).convert("L"))),
    ):
        finding = look(tmp_path, later)
        assert finding.is_damaged
        assert finding.text.startswith(sentence)


def test_a_files_own_compression_is_told(tmp_path: Path, coffee: Pixels) -> None:
    bad = look(tmp_path, encoded(coffee, "JPEG", quality=81))
    assert bad == Finding(True, "the file is a JPEG of about quality 81 (4:2:0)")
    assert not look(tmp_path, encoded(coffee, "JPEG", quality=82)).is_damaged
    worse = look(tmp_path, encoded(coffee, "WEBP", quality=20))
    assert worse.is_damaged
    assert worse.text.startswith("the file is a WebP of about quality ")
    assert not look(tmp_path, encoded(coffee, "WEBP", quality=80)).is_damaged
    good = look(tmp_path, encoded(coffee, "JPEG", quality=95))
    assert not good.is_damaged
    assert good.text == "the file is a JPEG of about quality 95 (4:2:0), and no noise was found"


def test_drawings_and_flat_pictures_are_clean(tmp_path: Path, coffee: Pixels) -> None:
    colours = np.random.default_rng(1).integers(0, 256, (12, 16, 3), np.uint8)
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[::2] = (240, 200, 20)
    for drawing in (
        np.full((64, 64, 3), 128, np.uint8),
        colours.repeat(8, axis=0).repeat(8, axis=1),
        coffee.repeat(8, axis=0).repeat(8, axis=1)[:256, :256],
        stripes + 10,
        colours,
    ):
        finding = look(tmp_path, encoded(np.ascontiguousarray(drawing)))
        assert not finding.is_damaged, finding.text
    assert look(tmp_path, encoded(colours)).text == "the picture is too small to be judged"


def test_noise_is_measured_in_levels_and_transparent_pixels_do_not_count(coffee: Pixels) -> None:
    rng = np.random.default_rng(0)
    for sigma in (3.0, 8.0, 15.0):
        noisy = np.rint(np.clip(coffee + rng.normal(0, sigma, coffee.shape), 0, 255))
        noisy[:40] = 0
        found = noise_level([noisy.astype(np.float32)])
        assert abs(found - sigma) <= 0.15 * sigma
    assert noise_level([np.zeros((64, 64, 3), np.float32)]) == 0.0


def test_sixteen_bits_are_judged_as_eight(tmp_path: Path, coffee: Pixels) -> None:
    import pyvips

    noisy = PICTURES["coffee"].reduced(4, "noise").astype(np.uint16) * 257
    path = tmp_path / "deep.png"
    image = pyvips.Image.new_from_array(noisy).copy(interpretation="rgb16")
    image.write_to_file(str(path))
    assert look(tmp_path, path.read_bytes()).text.startswith("the picture has noise of about")


def test_the_rows_that_were_looked_at_are_given_out_once(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 40, 4), np.uint8)
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(pixels))

    def rows(held_bytes: int | None) -> Pixels:
        config = ImageConfig(image_path=str(path))
        with open_source(config, PictureSettings(), RecordingContext()) as source:
            if held_bytes is not None:
                blocks = source.hold(held_bytes, 128)
                assert sum(map(len, blocks)) in (8, 256, 300)
                assert source.rows_left == 300
            parts = []
            while source.rows_left:
                parts.append(source.rows(70))
                assert len(parts[-1]) == min(70, 300 - 70 * (len(parts) - 1))
            assert source.rows(5).shape == (0, 40, 4)
        return np.concatenate(parts)

    expected = rows(None)
    for held_bytes in (1, 256 * 160, 10**9):
        np.testing.assert_array_equal(rows(held_bytes), expected)


def test_a_picture_that_is_no_jpeg_has_no_grid(coffee: Pixels) -> None:
    luma = (coffee @ np.array(LUMA)).astype(np.float32)
    assert find_jpeg([luma]) is None
    assert find_jpeg([luma[:16, :16]]) is None
