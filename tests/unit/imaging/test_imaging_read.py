"""What comes out of a file: bands, depth, upright pixels, and errors that say what is wrong."""

from __future__ import annotations

import base64
import errno
import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pyvips
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from upscaled_models.engine import Context, Settings
from upscaled_models.imaging import formats, read
from upscaled_models.imaging.read import Source, open_source
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.errors import ErrorCode, JobError

Opener = Callable[..., Any]
RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (37, 53, 3), dtype=np.uint8)
ORIENTATION = 274


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def read_all(source: Source, count: int = 1000) -> np.ndarray:
    blocks = []
    while source.rows_left:
        blocks.append(source.rows(count))
    return np.concatenate(blocks)


def error_of(opened: Opener, **fields: Any) -> JobError:
    with pytest.raises(JobError) as caught, opened(**fields) as source:
        read_all(source)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("pixels", "bands"),
    [
        (RGB[:, :, 0], 1),
        (RGB, 3),
        (np.dstack([RGB, np.full((37, 53), 200, np.uint8)]), 4),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_pixels_arrive_as_they_are(
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


def test_what_stands_behind_a_pngs_pixels_counts(tmp_path: Path, opened: Opener) -> None:
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


@hypothesis_settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif", "gif"])
def test_a_truncated_file_is_unreadable(tmp_path: Path, opened: Opener, suffix: str) -> None:
    big = RNG.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    path = save(tmp_path / f"whole.{suffix}", big)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    assert error_of(opened, image_path=path).code is ErrorCode.INPUT_UNREADABLE


def test_a_damaged_file_is_unreadable(tmp_path: Path, opened: Opener) -> None:
    path = save(tmp_path / "damaged.png", RGB)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert error_of(opened, image_path=path).code is ErrorCode.INPUT_UNREADABLE


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", ErrorCode.INPUT_UNREADABLE),
        (b"no picture at all\n", ErrorCode.INPUT_UNREADABLE),
        (b"\x89PNG\r\n\x1a\n", ErrorCode.INPUT_UNREADABLE),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ErrorCode.UNSUPPORTED_FORMAT),
        (b"%PDF-1.7\n", ErrorCode.UNSUPPORTED_FORMAT),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ErrorCode.UNSUPPORTED_FORMAT),
    ],
)  # fmt: skip
def test_what_is_no_picture_says_so(
    tmp_path: Path, opened: Opener, content: bytes, code: ErrorCode
) -> None:
    path = tmp_path / "input.png"
    path.write_bytes(content)
    assert error_of(opened, image_path=path).code is code


def test_floating_point_pixels_are_refused(tmp_path: Path, opened: Opener) -> None:
    path = tmp_path / "float.tif"
    pyvips.Image.new_from_array(RGB).cast("float").write_to_file(str(path))
    assert error_of(opened, image_path=path).code is ErrorCode.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "avif"])
def test_an_animation_is_refused(tmp_path: Path, opened: Opener, suffix: str) -> None:
    path = tmp_path / f"film.{suffix}"
    frames = [Image.fromarray(np.roll(RGB, shift, axis=1)) for shift in (0, 9)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100)
    error = error_of(opened, image_path=path)
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert "animated" in error.message


def test_an_animation_hidden_behind_a_long_profile_is_refused(
    tmp_path: Path, opened: Opener
) -> None:
    still, control = tmp_path / "still.png", struct.pack(">I4sIII", 8, b"acTL", 2, 0, 0)
    save(still, RGB, icc_profile=RNG.bytes(3000))
    data = still.read_bytes()
    at = data.index(b"IDAT") - 4
    (tmp_path / "film.png").write_bytes(data[:at] + control + data[at:])
    assert "animated" in error_of(opened, image_path=tmp_path / "film.png").message
    save(still, RGB, pnginfo=comment("acTL"))  # the word alone is no animation
    with opened(image_path=still) as source:
        assert source.width == 53


def comment(text: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", text)
    return info


@pytest.mark.parametrize("dots", [0, 0.2, 3_000_000])
def test_an_impossible_resolution_is_taken_for_none(
    tmp_path: Path, opened: Opener, dots: float
) -> None:
    path = save(tmp_path / "odd.png", RGB, dpi=(dots, dots))
    with opened(image_path=path) as source:
        assert source.metadata.dpi is None


def test_of_a_tiff_with_pages_the_first_is_taken(
    tmp_path: Path, opened: Opener, context: Any
) -> None:
    path = tmp_path / "pages.tif"
    Image.fromarray(RGB).save(path, save_all=True, append_images=[Image.fromarray(RGB[::-1])])
    with opened(image_path=path) as source:
        assert np.array_equal(read_all(source), RGB)
    assert context.warnings == ["the input holds 2 pictures: only the first was taken"]


def test_a_missing_file_is_not_found(tmp_path: Path, opened: Opener) -> None:
    assert error_of(opened, image_path=tmp_path / "none.png").code is ErrorCode.INPUT_NOT_FOUND
    assert error_of(opened, image_path=tmp_path).code is ErrorCode.INPUT_NOT_FOUND
    assert error_of(opened, image_path="a\0b").code is ErrorCode.INVALID_JOB


def test_a_named_pipe_does_not_hold_the_job(tmp_path: Path, opened: Opener) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert error_of(opened, image_path=tmp_path / "pipe.png").code is ErrorCode.INPUT_NOT_FOUND


def test_a_file_on_a_failing_disk_is_unreadable(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    path = save(tmp_path / "in.png", RGB)
    monkeypatch.setattr(os, "pread", fail)
    error = error_of(opened, image_path=path)
    assert error.code is ErrorCode.INPUT_UNREADABLE
    assert "Input/output error" in error.message


@pytest.mark.parametrize(
    ("detail", "code"),
    [
        ("vips_tracked: out of memory -- size == 180MB\n", ErrorCode.OUT_OF_MEMORY),
        ("VipsJpeg: Insufficient memory (case 4)\n", ErrorCode.OUT_OF_MEMORY),
        (
            "heif: Invalid input: Unspecified: Memory allocation error (2.0)\n",
            ErrorCode.OUT_OF_MEMORY,
        ),
        (
            "heif: Memory allocation error: Security limit exceeded: Box size (6.1000)\n",
            ErrorCode.INPUT_UNREADABLE,
        ),
        ("VipsJpeg: premature end of JPEG image\n", ErrorCode.INPUT_UNREADABLE),
    ],
)  # fmt: skip
def test_a_lack_of_memory_is_no_fault_of_the_file(detail: str, code: ErrorCode) -> None:
    assert formats.unreadable(pyvips.Error("unable to call", detail)).code is code


@pytest.mark.parametrize("place", [2**64 - 1, 2**63 - 1, 2**62])
@pytest.mark.parametrize("number", [None, 34675, 33432])
def test_a_big_tiff_may_point_anywhere(
    tmp_path: Path, opened: Opener, number: int | None, place: int
) -> None:
    path = tmp_path / "big.tif"
    pyvips.Image.new_from_array(RGB).tiffsave(str(path), bigtiff=True)
    data = bytearray(path.read_bytes())
    (directory,) = struct.unpack_from("<Q", data, 8)
    (count,) = struct.unpack_from("<Q", data, directory)
    if number is None:
        struct.pack_into("<Q", data, 8, place)
    else:  # in place of the last entry: a profile, or a copyright
        entry = directory + 8 + 20 * (count - 1)
        struct.pack_into("<HHQQ", data, entry, number, 7, 1000, place)
    path.write_bytes(data)
    if number == 33432:
        with opened(image_path=path) as source:
            assert np.array_equal(read_all(source), RGB)
    else:
        assert error_of(opened, image_path=path).code is ErrorCode.INPUT_UNREADABLE


def test_limits_are_checked_before_a_pixel_is_decoded(
    tmp_path: Path, settings: Settings, context: Context
) -> None:
    bomb = tmp_path / "bomb.png"
    # 900 million pixels in a few kilobytes, broken after the header: decoding it would fail.
    pyvips.Image.black(30_000, 30_000).pngsave(str(bomb), bitdepth=1)
    bomb.write_bytes(bomb.read_bytes()[:4096])
    config = EsrganConfig(image_path=str(bomb))
    with pytest.raises(JobError) as caught, open_source(config, settings, context):
        pass
    assert caught.value.code is ErrorCode.INPUT_TOO_LARGE
    assert "900" in caught.value.message

    small = replace(settings, max_input_bytes=4095)
    with pytest.raises(JobError) as caught, open_source(config, small, context):
        pass
    assert caught.value.code is ErrorCode.INPUT_TOO_LARGE


@pytest.mark.parametrize("side", [65_535, 1_000_000])
def test_sizes_that_no_memory_holds_are_too_large(
    tmp_path: Path, opened: Opener, side: int
) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    data += struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 10) + b"IDAT" + bytes(14)
    (tmp_path / "huge.png").write_bytes(data)
    error = error_of(opened, image_path=tmp_path / "huge.png")
    assert error.code is ErrorCode.INPUT_TOO_LARGE


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


def test_base64_past_the_limit_is_not_decoded(settings: Settings, context: Context) -> None:
    config = EsrganConfig(image_base64="!" * 4000)  # no base64: decoding it would fail otherwise
    small = replace(settings, max_input_bytes=2000)
    with pytest.raises(JobError) as caught, open_source(config, small, context):
        pass
    assert caught.value.code is ErrorCode.INPUT_TOO_LARGE


def test_roots_hold_whatever_links_lead_out(
    tmp_path: Path, settings: Settings, context: Context
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    save(outside / "secret.png", RGB)
    save(root / "mine.png", RGB)
    (root / "link.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to(outside)
    confined = replace(settings, allowed_roots=(root,))
    with open_source(EsrganConfig(image_path=str(root / "mine.png")), confined, context):
        pass
    for path in ("link.png", "folder/secret.png", "../outside/secret.png", "../outside/none.png"):
        config = EsrganConfig(image_path=str(root / path))
        with pytest.raises(JobError) as caught, open_source(config, confined, context):
            pass
        assert caught.value.code is ErrorCode.PATH_NOT_ALLOWED


def test_a_file_that_becomes_a_link_leads_nowhere_out_of_the_roots(
    tmp_path: Path, settings: Settings, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    secret, mine = save(tmp_path / "secret.png", RGB), save(root / "mine.png", RGB)
    real = os.open

    def swap_and_open(path: Any, *args: Any, **kwargs: Any) -> int:
        if path == mine:
            mine.unlink()
            mine.symlink_to(secret)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", swap_and_open)
    confined = replace(settings, allowed_roots=(root,))
    config = EsrganConfig(image_path=str(mine))
    with pytest.raises(JobError) as caught, open_source(config, confined, context):
        pass
    assert caught.value.code is ErrorCode.PATH_NOT_ALLOWED


def test_a_picture_that_there_is_no_room_to_turn_is_not_called_broken(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = save(tmp_path / "in.jpg", RGB, exif=exif)
    monkeypatch.setattr(read, "_TURNED_IN_MEMORY_BYTES", 0)
    with opened(image_path=path) as source:
        assert (source.width, source.height) == (37, 53)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    error = error_of(opened, image_path=path)
    assert error.code is ErrorCode.OUTPUT_UNWRITABLE
    assert "TMPDIR" in error.message


def test_a_gain_map_is_told_of(tmp_path: Path, opened: Opener, context: Any) -> None:
    packet = b'<rdf:Description xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"/>'
    path = save(tmp_path / "ultra.jpg", RGB, xmp=packet)
    with opened(image_path=path) as source:
        assert source.metadata.xmp == packet
    assert ["gain map" in warning for warning in context.warnings] == [True]
