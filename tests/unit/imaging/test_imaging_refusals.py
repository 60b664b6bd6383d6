"""Inputs that are refused: with the right code, in one line, and before they cost time."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image, PngImagePlugin

from opened_pictures import ORIENTATION, RGB, RNG, Opener, error_of, read_all, save
from upscaled_imaging import formats, read
from upscaled_imaging.context import PictureContext
from upscaled_imaging.read import open_source
from upscaled_imaging.settings import Access, Limits, PictureSettings
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.errors import ErrorCode, JobError


def comment(text: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", text)
    return info


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif", "gif", "bmp", "tga"])
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
        (b"no picture\n", ErrorCode.UNSUPPORTED_FORMAT),
        (b"\x89PNG\r\n\x1a\n", ErrorCode.INPUT_UNREADABLE),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ErrorCode.UNSUPPORTED_FORMAT),
        (b"%PDF-1.7\n", ErrorCode.UNSUPPORTED_FORMAT),
        (b"8BPS\0\x01", ErrorCode.UNSUPPORTED_FORMAT),
    ],
)  # fmt: skip
def test_a_file_that_is_no_picture_is_named(
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
    save(still, RGB, pnginfo=comment("acTL"))  # the name of a chunk inside a text is no animation
    with opened(image_path=still) as source:
        assert source.width == 53


def test_a_missing_file_is_not_found(tmp_path: Path, opened: Opener) -> None:
    assert error_of(opened, image_path=tmp_path / "none.png").code is ErrorCode.INPUT_NOT_FOUND
    assert error_of(opened, image_path=tmp_path).code is ErrorCode.INPUT_NOT_FOUND
    assert error_of(opened, image_path="a\0b").code is ErrorCode.INVALID_JOB


def test_a_path_longer_than_any_system_takes_is_not_repeated(opened: Opener) -> None:
    error = error_of(opened, image_path="/" + "a/" * 100_000)
    assert error.code is ErrorCode.INVALID_JOB
    assert "200001 bytes" in error.message
    assert len(error.message) < 200


def test_a_named_pipe_does_not_block_the_job(tmp_path: Path, opened: Opener) -> None:
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
def test_a_lack_of_memory_is_not_reported_as_a_broken_file(detail: str, code: ErrorCode) -> None:
    assert formats.unreadable(pyvips.Error("unable to call", detail)).code is code


@pytest.mark.parametrize("place", [2**64 - 1, 2**63 - 1, 2**62])
@pytest.mark.parametrize("number", [None, 34675, 33432])
def test_a_big_tiff_with_any_offset_ends_in_an_error(
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


def png_of(side: int) -> bytes:
    """A header with these sides, and no pixel that could be decoded."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    return data + struct.pack(">II", zlib.crc32(header), 10) + b"IDAT" + bytes(14)


def test_limits_are_checked_before_a_pixel_is_decoded(
    tmp_path: Path, settings: PictureSettings, context: PictureContext
) -> None:
    bomb = tmp_path / "bomb.png"
    # 900 million pixels in a few kilobytes, broken after the header: decoding it would fail.
    bomb.write_bytes(png_of(30_000).ljust(4096, b"\0"))
    config = EsrganConfig(image_path=str(bomb))
    with pytest.raises(JobError) as caught, open_source(config, settings, context):
        pass
    assert caught.value.code is ErrorCode.INPUT_TOO_LARGE
    assert "900" in caught.value.message

    small = replace(settings, limits=Limits(max_input_megapixels=0.0001, beside_pixels_bytes=3000))
    with pytest.raises(JobError) as caught, open_source(config, small, context):
        pass
    assert caught.value.code is ErrorCode.INPUT_TOO_LARGE


def test_a_picture_of_the_allowed_pixels_is_read_without_compression(
    tmp_path: Path, settings: PictureSettings, context: PictureContext
) -> None:
    pixels = np.arange(40_000, dtype=np.uint16).reshape(100, 100, 4)
    picture = pyvips.Image.new_from_array(pixels, interpretation="rgb16")
    picture.tiffsave(str(tmp_path / "in.tif"), compression="none")
    limits = Limits(max_input_megapixels=0.01, beside_pixels_bytes=1000)
    config = EsrganConfig(image_path=str(tmp_path / "in.tif"))
    with open_source(config, replace(settings, limits=limits), context) as source:
        assert read_all(source).shape == (100, 100, 4)


@pytest.mark.parametrize("side", [65_535, 1_000_000])
def test_sizes_that_no_memory_holds_are_too_large(
    tmp_path: Path, opened: Opener, side: int
) -> None:
    (tmp_path / "huge.png").write_bytes(png_of(side))
    error = error_of(opened, image_path=tmp_path / "huge.png")
    assert error.code is ErrorCode.INPUT_TOO_LARGE


def test_base64_past_the_limit_is_not_decoded(
    settings: PictureSettings, context: PictureContext
) -> None:
    config = EsrganConfig(image_base64="!" * 4000)  # not base64, so decoding it would fail
    small = replace(settings, limits=Limits(max_input_megapixels=0.0001, beside_pixels_bytes=1000))
    with pytest.raises(JobError) as caught, open_source(config, small, context):
        pass
    assert caught.value.code is ErrorCode.INPUT_TOO_LARGE


def test_roots_confine_paths_through_links(
    tmp_path: Path, settings: PictureSettings, context: PictureContext
) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    save(outside / "secret.png", RGB)
    save(root / "mine.png", RGB)
    (root / "link.png").symlink_to(outside / "secret.png")
    (root / "folder").symlink_to(outside)
    confined = replace(settings, access=Access(roots=(root,)))
    with open_source(EsrganConfig(image_path=str(root / "mine.png")), confined, context):
        pass
    for path in ("link.png", "folder/secret.png", "../outside/secret.png", "../outside/none.png"):
        config = EsrganConfig(image_path=str(root / path))
        with pytest.raises(JobError) as caught, open_source(config, confined, context):
            pass
        assert caught.value.code is ErrorCode.PATH_NOT_ALLOWED


def test_a_file_that_becomes_a_link_does_not_lead_out_of_the_roots(
    tmp_path: Path,
    settings: PictureSettings,
    context: PictureContext,
    monkeypatch: pytest.MonkeyPatch,
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
    confined = replace(settings, access=Access(roots=(root,)))
    config = EsrganConfig(image_path=str(mine))
    with pytest.raises(JobError) as caught, open_source(config, confined, context):
        pass
    assert caught.value.code is ErrorCode.PATH_NOT_ALLOWED


def test_a_lack_of_room_to_turn_a_picture_is_not_reported_as_a_broken_file(
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
