"""What an upload is, by its first bytes and its header."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from upscaled_http.pictures import picture_size
from upscaled_http.problems import ProblemError


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_the_header_shows_the_size(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "upload"
    Image.new("RGB", (70, 30)).save(path, kind)
    assert picture_size(path, 50) == (70, 30)


def test_a_photograph_that_lies_on_its_side_is_measured_upright(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (70, 30)).save(path, "JPEG", exif=exif)
    assert picture_size(path, 50) == (30, 70)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "unsupported_format"),
        (b"\0" * 100, "unsupported_format"),
        (b"hello", "unsupported_format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_format"),
        (b"<!doctype html><script>alert(1)</script>", "unsupported_format"),
        (b"PK\x03\x04" + b"\0" * 60, "unsupported_format"),
        (b"\x89PNG\r\n\x1a\n", "input_unreadable"),
        (b"\xff\xd8\xff\xe0", "input_unreadable"),
        (b"RIFF\0\0\0\0WEBP", "input_unreadable"),
        (b"II*\0\xff\xff\xff\xff", "input_unreadable"),
        (png_header(0, 10), "input_unreadable"),
        (png_header(60_000, 60_000), "input_too_large"),
    ],
)
def test_what_is_no_picture_or_too_large_is_refused(tmp_path: Path, data: bytes, code: str) -> None:
    path = tmp_path / "upload"
    path.write_bytes(data)
    with pytest.raises(ProblemError) as caught:
        picture_size(path, 50)
    assert caught.value.code == code
    assert str(tmp_path) not in caught.value.detail


def test_the_limit_is_in_megapixels(tmp_path: Path) -> None:
    path = tmp_path / "upload"
    path.write_bytes(png_header(1000, 1001))
    with pytest.raises(ProblemError, match="limit is 1"):
        picture_size(path, 1)
    path.write_bytes(png_header(1000, 1000))
    assert picture_size(path, 1) == (1000, 1000)
