"""A JPEG XL is read exactly, upright, and with its metadata."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips

from heif_files import box
from opened_pictures import error_of, read_all
from recording import RecordingContext
from upscaled_imaging import kinds
from upscaled_imaging.jxlheader import JxlHeader, jxl_header
from upscaled_protocol.errors import ErrorCode

OpenImageIO = pytest.importorskip("OpenImageIO", reason="needs pip install 'upscaled[jxl]'")
brotli = pytest.importorskip("brotli", reason="needs pip install 'upscaled[jxl]'")
Opener = Callable[..., Any]
HEIGHT, WIDTH = 20, 30
RNG = np.random.default_rng(5)
PIXELS = RNG.integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
PIXELS[:, :, 3] |= 1  # colours under zero alpha would be replaced
PROFILE = bytes(pyvips.Image.profile_load("p3"))
SIGNATURE = box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl \0\0\0\0jxl ")
# 24x16 pixels to be turned by 90 degrees, red in the upper left quarter, made of a JPEG.
TURNED = base64.b64decode(
    "/woDLRAT4FsAEABwAw52DHUOdv7/DgAAGAAIAAEAAAAAAICAJYnEiLu5HgIAUCZrcc+BQmFGCgpzkVkqNkbGGBljjIyk"
    "ImOMkUyzKNFBf+nSU1R9P2jb2Rm182XM1vkWpAEAm/g5AcQEcFL/czRlISzSrAjsS7ZcmhUJifuPcBFnizP7WEBWMRmb"
    "2FV0xSy/4aP6KpCAAMIm5z8Qmjw5rLXvEeMveJGy7s9X4fe1YFaKVgh5a1rCZgoAAAAAAIBCCiS2imWMVGSMMTIyBily"
    "ryQAoOwG73Rz+Z391f622jbMnGHtjjkNeA8="
)
# A white and a gray pixel of BT.2100.
HDR = {
    "PQ": "/woAcAEE5NEjDgcAAACACAIBADQASxiLFcJJAuYB2L8+AA==",
    "HLG": "/woAcAEE5BkI9BgAAAAAAggCAQA0AEsYixXCSQLmAdi/PgA=",
}


def encoded(path: Path, pixels: np.ndarray, profile: bytes | None = None) -> Path:
    """Lossless."""
    depth = OpenImageIO.UINT16 if pixels.dtype == np.uint16 else OpenImageIO.UINT8
    spec = OpenImageIO.ImageSpec(pixels.shape[1], pixels.shape[0], pixels.shape[2], depth)
    spec.attribute("Compression", "jpegxl:100")
    if profile is not None:
        kind = OpenImageIO.TypeDesc(f"uint8[{len(profile)}]")
        spec.attribute("ICCProfile", kind, np.frombuffer(profile, np.uint8))
    output = OpenImageIO.ImageOutput.create(str(path))
    assert output.open(str(path), spec)
    assert output.write_image(np.ascontiguousarray(pixels))
    output.close()
    return path


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "in.file"
    path.write_bytes(data)
    return path


def header(*numbers: tuple[int, int]) -> bytes:
    """A codestream that begins with numbers of the given widths in bits."""
    value = at = 0
    for number, bits in numbers:
        value |= number << at
        at += bits
    return b"\xff\x0a" + value.to_bytes(64, "little")


def read_header(data: bytes) -> JxlHeader:
    return jxl_header(lambda at, count: data[at : at + count])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_pixels_are_read_exactly(tmp_path: Path, opened: Opener, bands: int, bits: int) -> None:
    pixels = PIXELS[:, :, :bands]
    if bits == 16:
        pixels = pixels.astype(np.uint16) * 256 + pixels[::-1]
    with opened(image_path=encoded(tmp_path / "in.jxl", pixels)) as source:
        assert source.bits == bits
        assert source.metadata.icc is None
        assert np.array_equal(read_all(source), pixels)


def test_a_file_of_a_few_bytes_is_read(tmp_path: Path, opened: Opener) -> None:
    path = encoded(tmp_path / "in.jxl", np.full((50, 70, 3), 200, np.uint8))
    assert path.stat().st_size < 128
    with opened(image_path=path) as source:
        assert np.array_equal(read_all(source), np.full((50, 70, 3), 200))


def test_the_profile_of_the_pixels_is_kept(tmp_path: Path, opened: Opener) -> None:
    path = encoded(tmp_path / "in.jxl", PIXELS[:, :, :3], PROFILE)
    with opened(image_path=path) as source:
        assert source.metadata.icc == PROFILE


@pytest.mark.parametrize(("name", "data"), HDR.items())
def test_an_hdr_picture_keeps_its_profile_and_the_warning_says_so(
    tmp_path: Path, opened: Opener, context: RecordingContext, name: str, data: str
) -> None:
    with opened(image_path=written(tmp_path, base64.b64decode(data))) as source:
        assert b"cicp" in source.metadata.icc
    (warning,) = context.warnings
    assert f"HDR ({name})" in warning
    assert "profile is kept" in warning


def test_a_picture_is_turned_by_its_own_header(tmp_path: Path, opened: Opener) -> None:
    exif = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 274, 3, 1, 6, 0, 0)
    data = SIGNATURE + box(b"Exif", bytes(4), exif) + box(b"jxlc", TURNED)
    with opened(image_path=written(tmp_path, data)) as source:
        assert (source.width, source.height, source.was_turned) == (16, 24, True)
        out = read_all(source)
    assert out[2, 13, 0] > 150  # red, which was on the left, is on the right
    assert out[2, 2].max() < 60


@pytest.mark.parametrize("compressed", [False, True])
def test_exif_and_xmp_are_kept(tmp_path: Path, opened: Opener, compressed: bool) -> None:
    exif = b"MM\0*\0\0\0\x08" + struct.pack(">HHHI4sI", 1, 315, 2, 4, b"Ann\0", 0)
    blocks = {b"Exif": bytes(4) + exif, b"xml ": b"<x:xmpmeta/>"}
    boxes = [
        box(b"brob", kind, brotli.compress(data)) if compressed else box(kind, data)
        for kind, data in blocks.items()
    ]
    data = SIGNATURE + box(b"jxlp", bytes(4), TURNED[:7]) + b"".join(boxes)
    data += box(b"jxlp", b"\x80\0\0\1", TURNED[7:])
    with opened(image_path=written(tmp_path, data)) as source:
        assert source.metadata.exif == exif
        assert source.metadata.xmp == b"<x:xmpmeta/>"
        assert source.height == 24


def test_contents_that_cannot_be_kept_are_named(
    tmp_path: Path, opened: Opener, context: RecordingContext
) -> None:
    bomb = box(b"brob", b"xml ", brotli.compress(bytes(20 * 1024 * 1024), quality=1))
    data = SIGNATURE + bomb + box(b"jhgm", b"a gain map") + box(b"jxlc", TURNED)
    with opened(image_path=written(tmp_path, data)) as source:
        assert source.metadata.xmp is None
    assert ["XMP" in warning or "gain map" in warning for warning in context.warnings] == [True] * 2


def test_an_encoders_header_is_read_as_it_was_written() -> None:
    # 8 rows, as wide as high, no default values, turned, no other size, no preview, no animation.
    start = [(1, 1), (0, 5), (1, 3), (0, 1), (1, 1), (5, 3), (0, 1), (0, 1), (0, 1)]
    # 12 bits, 16-bit arithmetic, one extra channel: 8-bit alpha with premultiplied colours.
    rest = [(0, 1), (2, 2), (1, 1), (1, 2), (0, 1), (0, 2), (0, 1), (0, 2), (0, 2), (0, 2), (1, 1)]
    wanted = JxlHeader(8, 8, bits=12, is_turned=True, is_premultiplied=True, extra=(0,))
    assert read_header(header(*start, *rest)) == wanted
    # 1,000 rows of 777 pixels, turned on their side.
    sides = [(0, 1), (1, 2), (999, 13), (0, 3), (1, 2), (776, 13)]
    found = read_header(header(*sides, *start[3:5], (7, 3), *start[6:], *rest[:2]))
    assert (found.width, found.height) == (1000, 777)


@pytest.mark.parametrize(
    ("data", "code", "named"),
    [
        (header((0, 1), (3, 2), (59_999, 30), (1, 3)), ErrorCode.INPUT_TOO_LARGE, "60000x60000"),
        (
            header((1, 1), (0, 5), (1, 3), (0, 1), (1, 1), (0, 3), (0, 2), (1, 1)),
            ErrorCode.UNSUPPORTED_FORMAT,
            "animated",
        ),
        (
            header((1, 1), (0, 5), (1, 3), (0, 1), (0, 1), (1, 1), (0, 2)),
            ErrorCode.UNSUPPORTED_FORMAT,
            "floating point",
        ),
        (
            # One channel of kind 4, black.
            header(
                *[(1, 1), (0, 5), (1, 3), (0, 1), (0, 1), (0, 1), (0, 2), (1, 1)],
                *[(1, 2), (0, 1), (2, 2), (2, 4)],
            ),
            ErrorCode.UNSUPPORTED_FORMAT,
            "CMYK",
        ),
        (TURNED[:60], ErrorCode.INPUT_UNREADABLE, "truncated"),
        (b"\xff\x0a", ErrorCode.INPUT_UNREADABLE, "cut off"),
        (SIGNATURE, ErrorCode.INPUT_UNREADABLE, "no picture"),
        (SIGNATURE + box(b"jxlc", bytes(99)), ErrorCode.INPUT_UNREADABLE, "no picture"),
    ],
)
def test_a_picture_that_is_not_read_ends_in_one_clear_error(
    tmp_path: Path, opened: Opener, data: bytes, code: ErrorCode, named: str
) -> None:
    error = error_of(opened, image_path=written(tmp_path, data))
    assert error.code is code
    assert named in error.message


def test_without_its_package_the_sentence_names_the_extra(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "_is_installed", lambda module: False)
    error = error_of(opened, image_path=written(tmp_path, TURNED))
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert "JPEG XL" in error.message
    assert "`pip install 'upscaled[jxl]'`" in error.message
