"""Reading a file: bands, depth, upright pixels, metadata and warnings."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from opened_pictures import ORIENTATION, RGB, RNG, Opener, error_of, read_all, save
from upscaled_protocol.errors import ErrorCode


@pytest.mark.parametrize(
    ("pixels", "bands"),
    [
        (RGB[:, :, 0], 1),
        (RGB, 3),
        (np.dstack([RGB, np.full((37, 53), 200, np.uint8)]), 4),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_pixels_arrive_unchanged(
    tmp_path: Path, opened: Opener, pixels: np.ndarray, bands: int, suffix: str
) -> None:
    path = save(tmp_path / f"in.{suffix}", pixels)
    with opened(image_path=path) as source:
        assert (source.width, source.height, source.bands, source.bits) == (53, 37, bands, 8)
        assert np.array_equal(read_all(source), pixels.reshape(37, 53, bands))


def test_gray_with_alpha_stays_gray_with_alpha(tmp_path: Path, opened: Opener) -> None:
    path = tmp_path / "la.png"
    Image.fromarray(RGB[:, :, 0]).convert("LA").save(path)
    with opened(image_path=path) as source:
        assert source.bands == 2
        assert np.array_equal(read_all(source)[:, :, 0], RGB[:, :, 0])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path, opened: Opener, suffix: str) -> None:
    deep = RNG.integers(0, 65536, (9, 11, 3), dtype=np.uint16)
    path = tmp_path / f"deep.{suffix}"
    pyvips.Image.new_from_array(deep).copy(interpretation="rgb16").write_to_file(str(path))
    with opened(image_path=path) as source:
        assert (source.bits, source.bands) == (16, 3)
        assert np.array_equal(read_all(source), deep)


def test_a_palette_becomes_colours_and_its_transparency_alpha(
    tmp_path: Path, opened: Opener
) -> None:
    picture = Image.fromarray(RGB).quantize(16)
    path = tmp_path / "palette.png"
    picture.save(path, transparency=3)
    with opened(image_path=path) as source:
        assert source.bands == 4
        pixels = read_all(source)
    hidden = np.asarray(picture) == 3
    assert np.array_equal(pixels[:, :, 3] == 0, hidden)
    assert np.array_equal(pixels[:, :, :3][~hidden], np.asarray(picture.convert("RGB"))[~hidden])


def test_a_still_gif_is_read(tmp_path: Path, opened: Opener) -> None:
    picture = Image.fromarray(RGB).quantize(64)
    picture.save(tmp_path / "still.gif")
    with opened(image_path=tmp_path / "still.gif") as source:
        assert np.array_equal(read_all(source)[:, :, :3], np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_the_orientation_is_applied(
    tmp_path: Path, opened: Opener, orientation: int, suffix: str
) -> None:
    picture = Image.fromarray(RGB)
    exif = picture.getexif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"turned.{suffix}"
    picture.save(path, exif=exif)
    with Image.open(path) as again:
        expected = np.asarray(ImageOps.exif_transpose(again))
    with opened(image_path=path) as source:
        assert (source.width, source.height) == expected.shape[1::-1]
        assert np.array_equal(read_all(source, 5), expected)


def with_metadata_behind_its_pixels(path: Path) -> Path:
    """A PNG as ImageMagick writes it."""
    data = path.read_bytes()
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append(data[at : at + 12 + length])
        at += 12 + length
    moved = [chunk for chunk in chunks if chunk[4:8] in (b"eXIf", b"iTXt")]
    rest = [chunk for chunk in chunks[:-1] if chunk not in moved]
    path.write_bytes(data[:8] + b"".join([*rest, *moved, chunks[-1]]))
    return path


def test_chunks_behind_a_pngs_pixels_count(tmp_path: Path, opened: Opener) -> None:
    picture = Image.fromarray(RGB)
    exif = picture.getexif()
    exif[ORIENTATION] = 6
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    path = tmp_path / "late.png"
    picture.save(path, exif=exif, pnginfo=text)
    with opened(image_path=with_metadata_behind_its_pixels(path)) as source:
        assert np.array_equal(read_all(source), np.rot90(RGB, -1))
        assert source.metadata.exif == exif.tobytes().removeprefix(b"Exif\0\0")
        assert source.metadata.xmp == b"<x:xmpmeta/>"


@pytest.mark.parametrize("block", [b"", b"II", b"no block", b"MM\0\x2a\xff\xff\xff\xff"])
def test_a_broken_block_behind_a_pngs_pixels_turns_nothing(
    tmp_path: Path, opened: Opener, block: bytes
) -> None:
    path = with_metadata_behind_its_pixels(save(tmp_path / "late.png", RGB, exif=b"Exif\0\0x"))
    data = path.read_bytes()
    at = data.index(b"eXIf") - 4
    checksum = zlib.crc32(b"eXIf" + block)
    chunk = struct.pack(">I4s", len(block), b"eXIf") + block + struct.pack(">I", checksum)
    path.write_bytes(data[:at] + chunk + data[-12:])
    with opened(image_path=path) as source:
        assert np.array_equal(read_all(source), RGB)


@hypothesis_settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.integers(1, 40),
    height=st.integers(1, 200),
    mode=st.sampled_from(["L", "LA", "RGB", "RGBA"]),
    counts=st.lists(st.integers(1, 90), min_size=1),
    seed=st.integers(0, 1000),
)
def test_rows_do_not_depend_on_how_many_are_asked_for(
    tmp_path: Path,
    opened: Opener,
    width: int,
    height: int,
    mode: str,
    counts: list[int],
    seed: int,
) -> None:
    bands = len(mode)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)
    if mode in ("LA", "RGBA"):
        pixels[pixels[:, :, -1] < 128, -1] = 0
    path = save(tmp_path / "rows.png", pixels.squeeze(2) if bands == 1 else pixels)
    with opened(image_path=path) as source:
        whole = read_all(source)
    with opened(image_path=path) as source:
        parts: list[np.ndarray] = []
        while source.rows_left:
            parts.append(source.rows(counts[len(parts) % len(counts)]))
    assert whole.shape == (height, width, bands)
    assert np.array_equal(np.concatenate(parts), whole)


def test_cmyk_becomes_rgb_through_its_own_profile(
    tmp_path: Path, opened: Opener, context: Any
) -> None:
    ink = np.zeros((4, 4, 4), np.uint8)
    ink[..., 1] = ink[..., 2] = 255  # magenta and yellow: red
    cmyk = pyvips.Image.new_from_array(ink).copy(interpretation="cmyk")
    cmyk.set_type(pyvips.GValue.blob_type, "icc-profile-data", pyvips.Image.profile_load("cmyk"))
    for name in ("a.tif", "a.jpg"):
        cmyk.write_to_file(str(tmp_path / name))
        with opened(image_path=tmp_path / name) as source:
            assert (source.bands, source.bits) == (3, 8)
            red, green, blue = read_all(source)[0, 0].tolist()
            assert source.metadata.icc is not None
            assert (
                ImageCms.getOpenProfile(io.BytesIO(source.metadata.icc)).profile.xcolor_space
                == "RGB "
            )
        assert red > 200
        assert max(green, blue) < 60
    assert context.warnings == []
    cmyk.remove("icc-profile-data")
    cmyk.write_to_file(str(tmp_path / "bare.tif"))
    with opened(image_path=tmp_path / "bare.tif") as source:
        assert source.bands == 3
    assert "no colour profile" in context.warnings[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_cmyk_keeps_its_alpha(tmp_path: Path, opened: Opener, dtype: type) -> None:
    ink = RNG.integers(0, np.iinfo(dtype).max, (300, 40, 5), dtype=dtype, endpoint=True)
    cmyk = pyvips.Image.new_from_array(ink).copy(interpretation="cmyk")
    cmyk.set_type(pyvips.GValue.blob_type, "icc-profile-data", pyvips.Image.profile_load("cmyk"))
    cmyk.write_to_file(str(tmp_path / "with.tif"))
    cmyk[:4].write_to_file(str(tmp_path / "without.tif"))
    with opened(image_path=tmp_path / "with.tif") as source:
        pixels = read_all(source, 7)
    with opened(image_path=tmp_path / "without.tif") as source:
        colours = read_all(source)
    assert np.array_equal(pixels[..., 3], ink[..., 4])
    seen = pixels[..., 3] > 0
    assert np.array_equal(pixels[seen][:, :3], colours[seen])


def test_a_profile_for_another_colour_model_is_left_out(
    tmp_path: Path, opened: Opener, context: Any
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = save(tmp_path / "gray.jpg", RGB[:, :, 0], icc_profile=profile)
    with opened(image_path=path) as source:
        assert source.metadata.icc is None
    assert "colour profile" in context.warnings[0]


@pytest.mark.parametrize("dots", [0, 0.2, 3_000_000])
def test_an_impossible_resolution_is_ignored(tmp_path: Path, opened: Opener, dots: float) -> None:
    path = save(tmp_path / "odd.png", RGB, dpi=(dots, dots))
    with opened(image_path=path) as source:
        assert source.metadata.dpi is None


def test_the_first_page_of_a_tiff_is_taken(tmp_path: Path, opened: Opener, context: Any) -> None:
    path = tmp_path / "pages.tif"
    Image.fromarray(RGB).save(path, save_all=True, append_images=[Image.fromarray(RGB[::-1])])
    with opened(image_path=path) as source:
        assert np.array_equal(read_all(source), RGB)
    assert context.warnings == ["the input holds 2 pictures: only the first was taken"]


def test_base64_is_strict_and_takes_data_urls(opened: Opener, tmp_path: Path) -> None:
    data = save(tmp_path / "in.png", RGB).read_bytes()
    text = base64.b64encode(data).decode()
    for head in ("", "data:image/png;base64,", "DATA:image/png;BASE64,"):
        with opened(image_base64=head + text) as source:
            assert source.path is None
            assert source.stem == "job-1"
            assert np.array_equal(read_all(source), RGB)
    for wrong in (text[:-1], text[:40] + "\n" + text[40:], "data:image/png," + text, "ü"):
        assert error_of(opened, image_base64=wrong).code is ErrorCode.INPUT_UNREADABLE


def test_a_gain_map_gets_a_warning(tmp_path: Path, opened: Opener, context: Any) -> None:
    packet = b'<rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"/>'
    path = save(tmp_path / "ultra.jpg", RGB, xmp=packet)
    with opened(image_path=path) as source:
        assert source.metadata.xmp == packet
    assert ["gain map" in warning for warning in context.warnings] == [True]


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "gif"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_picture_that_was_read_to_its_end_can_be_read_again(
    tmp_path: Path, opened: Opener, suffix: str, orientation: int
) -> None:
    path = tmp_path / f"in.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(RGB).save(path, exif=exif)
    with opened(image_path=path) as source:
        first = read_all(source)
        for _ in range(2):
            assert np.array_equal(read_all(source.again()), first)


def test_a_picture_in_the_job_can_be_read_again(tmp_path: Path, opened: Opener) -> None:
    encoded = base64.b64encode(save(tmp_path / "in.png", RGB).read_bytes())
    with opened(image_base64=encoded.decode()) as source:
        first = read_all(source)
        assert np.array_equal(read_all(source.again()), first)
