"""TIFF files that would be decoded wrongly: refused by name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image

from upscaled_protocol.errors import ErrorCode, JobError

Opener = Callable[..., Any]
RGB = np.random.default_rng(5).integers(0, 256, (40, 30, 3), dtype=np.uint8)
KIND, BITS, COMPRESSION, COLOURS, PLANES, PALETTE, PROFILE = 254, 258, 259, 262, 284, 320, 34675


def tiff(path: Path, mode: str = "RGB", **options: Any) -> Path:
    Image.fromarray(RGB).convert(mode).save(path, "TIFF", **options)
    return path


def entry_of(data: bytes | bytearray, number: int) -> int:
    """The offset of an entry of the first directory, in a little-endian file."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    places = range(at + 2, at + 2 + 12 * count, 12)
    return next(place for place in places if struct.unpack_from("<H", data, place) == (number,))


def change(path: Path, number: int, value: int) -> Path:
    """Replace the value of a tag, and keep the pixels."""
    data = bytearray(path.read_bytes())
    struct.pack_into("<HII", data, entry_of(data, number) + 2, 3, 1, value)
    path.write_bytes(data)
    return path


def error_of(opened: Opener, path: Path) -> JobError:
    with pytest.raises(JobError) as caught, opened(image_path=path) as source:
        source.rows(1000)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("mode", ["LAB", "YCbCr"])
def test_colours_that_are_not_read_are_named(tmp_path: Path, opened: Opener, mode: str) -> None:
    error = error_of(opened, tiff(tmp_path / "in.tif", mode))
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert mode.casefold() in error.message.casefold()


def test_ycbcr_in_jpeg_is_read(tmp_path: Path, opened: Opener) -> None:
    path = tmp_path / "in.tif"
    smooth = np.full((40, 30, 3), (200, 90, 30), np.uint8)
    pyvips.Image.new_from_array(smooth).tiffsave(str(path), compression="jpeg", Q=75)
    data = path.read_bytes()
    assert struct.unpack_from("<H", data, entry_of(data, COLOURS) + 8) == (6,)
    with opened(image_path=path) as source:
        assert np.abs(source.rows(40).astype(int) - smooth).max() <= 3


@pytest.mark.parametrize(
    ("number", "value", "named"),
    [
        (COMPRESSION, 34925, "LZMA, which is not read here: save it with LZW or deflate"),
        (COMPRESSION, 50000, "Zstandard"),
        (COMPRESSION, 12345, "method 12345"),
        (BITS, 12, "12 bits per channel, which is not read here: convert it to gray"),
        (COLOURS, 32803, "camera raw"),
        (COLOURS, 4, "mask"),
    ],
)
def test_what_is_not_read_is_named_with_what_to_do(
    tmp_path: Path, opened: Opener, number: int, value: int, named: str
) -> None:
    error = error_of(opened, change(tiff(tmp_path / "in.tif", "L"), number, value))
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert named in error.message


def test_tiles_of_single_channels_of_a_palette_are_named(tmp_path: Path, opened: Opener) -> None:
    path = tmp_path / "in.tif"
    pyvips.Image.new_from_array(RGB[:, :, 0]).tiffsave(
        str(path), tile=True, tile_width=16, tile_height=16
    )
    error = error_of(opened, change(change(path, PLANES, 2), COLOURS, 3))
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert "tiles" in error.message


def test_a_camera_raw_files_preview_is_not_taken_for_its_picture(
    tmp_path: Path, opened: Opener
) -> None:
    path = tiff(tmp_path / "in.dng", tiffinfo={KIND: 1})
    error = error_of(opened, path)
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert "a small preview" in error.message
    assert error.message.endswith("save its full picture as PNG or TIFF")


@pytest.mark.parametrize("number", [PALETTE, PROFILE])
def test_a_palette_or_profile_that_is_cut_off_is_an_error(
    tmp_path: Path, opened: Opener, number: int
) -> None:
    path = tmp_path / "in.tif"
    if number == PALETTE:
        Image.fromarray(RGB).quantize(64).save(path)
    else:
        tiff(path, icc_profile=bytes(pyvips.Image.profile_load("p3")))
    data = path.read_bytes()
    (place,) = struct.unpack_from("<I", data, entry_of(data, number) + 8)
    # As of a writer that puts the pixels first: they are complete, and the values are cut off.
    moved = bytearray(data)
    struct.pack_into("<I", moved, entry_of(data, number) + 8, len(data) - 20)
    assert place < len(data) - 20
    path.write_bytes(moved)
    error = error_of(opened, path)
    assert error.code is ErrorCode.INPUT_UNREADABLE
    assert "cut off" in error.message


def raw(path: Path, inner: bytes, *, make: str = "", more: bytes = b"") -> Path:
    """A small RGB picture, and a directory inside it or behind it, as camera raw files have."""
    tiff(path, tiffinfo={271: make} if make else {})
    data = bytearray(path.read_bytes())
    inner_at = len(data) + len(data) % 2
    data = data.ljust(inner_at, b"\0") + inner
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    table = data[at + 2 : at + 2 + 12 * count] + struct.pack("<HHII", 330, 13, 1, inner_at) + more
    struct.pack_into("<I", data, 4, len(data))
    data += struct.pack("<H", len(table) // 12) + table + bytes(4)
    path.write_bytes(data)
    return path


def directory(*entries: tuple[int, int]) -> bytes:
    packed = b"".join(struct.pack("<HHII", number, 4, 1, value) for number, value in entries)
    return struct.pack("<H", len(entries)) + packed + bytes(4)


@pytest.mark.parametrize(
    ("inner", "make", "more", "named"),
    [
        (directory((COLOURS, 32803)), "", b"", "camera raw file,"),
        (directory((COLOURS, 34892)), "", struct.pack("<HHII", 50706, 1, 4, 0x0401), "(DNG)"),
        (directory((COMPRESSION, 34713)), "NIKON", b"", "(NIKON)"),
        (directory((256, 6000), (257, 4000)), "SONY", b"", "(SONY)"),
    ],
    ids=["mosaic", "linear DNG", "packed", "larger"],
)
def test_a_camera_raw_file_is_recognised_by_the_pictures_inside(
    tmp_path: Path, opened: Opener, inner: bytes, make: str, more: bytes, named: str
) -> None:
    error = error_of(opened, raw(tmp_path / "in.tif", inner, make=make, more=more))
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert named in error.message
    assert "raw converter" in error.message


@pytest.mark.parametrize("make", ["", "EPSON"])
def test_a_tiff_with_smaller_versions_of_itself_inside_is_read(
    tmp_path: Path, opened: Opener, make: str
) -> None:
    inner = directory((KIND, 1), (256, 15), (257, 20), (COLOURS, 2))
    with opened(image_path=raw(tmp_path / "in.tif", inner, make=make)) as source:
        assert np.array_equal(source.rows(40), RGB)
