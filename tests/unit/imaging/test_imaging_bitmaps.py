"""BMP and TGA files of every depth are read exactly."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ImageCms

from opened_pictures import error_of, read_all, save
from recording import RecordingContext
from upscaled_protocol.errors import ErrorCode

Opener = Callable[..., Any]
HEIGHT, WIDTH = 9, 14
RNG = np.random.default_rng(3)
RGBA = RNG.integers(1, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
GRAY = RGBA[:, :, 0]
# Kinds of colour spaces in the header.
EMBEDDED, CALIBRATED = b"DEBM", bytes(4) + b"\1" * 48


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "in.file"
    path.write_bytes(data)
    return path


def bmp(
    pixels: bytes,
    bits: int,
    *,
    height: int = HEIGHT,
    compression: int = 0,
    palette: bytes = b"",
    masks: tuple[int, ...] = (),
    profile: bytes = b"",
    space: bytes = b"sRGB"[::-1],
) -> bytes:
    """A BMP. It has the longest kind of header if there are masks or a profile."""
    is_long = bool(masks or profile)
    size = 124 if is_long else 40
    at = 14 + size + len(palette)
    header = struct.pack("<IiiHH", size, WIDTH, height, 1, bits)
    header += struct.pack("<IIiiII", compression, len(pixels), 11_811, 11_811, len(palette) // 4, 0)
    if is_long:
        header += struct.pack("<4I", *(masks or (0, 0, 0, 0))) + space.ljust(52, b"\0")
        header += struct.pack("<4I", 0, size + len(palette) + len(pixels), len(profile), 0)
    whole = header + palette + pixels + profile
    return struct.pack("<2sIHHI", b"BM", 14 + len(whole), 0, 0, at) + whole


def rows(pixels: np.ndarray, *, from_below: bool = True) -> bytes:
    """Rows of pixels, each padded to a multiple of four bytes."""
    packed = pixels.reshape(HEIGHT, -1).view(np.uint8)
    packed = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 4)))
    return (packed[::-1] if from_below else packed).tobytes()


def test_a_bmp_may_begin_with_its_first_row_or_its_last(tmp_path: Path, opened: Opener) -> None:
    bgr = np.ascontiguousarray(RGBA[:, :, 2::-1])
    for data in (bmp(rows(bgr), 24), bmp(rows(bgr, from_below=False), 24, height=-HEIGHT)):
        with opened(image_path=written(tmp_path, data)) as source:
            assert source.metadata.dpi == pytest.approx(300, abs=0.1)
            assert np.array_equal(read_all(source), RGBA[:, :, :3])


def test_alpha_of_a_bmp_counts_if_the_header_declares_it(tmp_path: Path, opened: Opener) -> None:
    bgra = np.ascontiguousarray(RGBA[:, :, [2, 1, 0, 3]])
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    with opened(image_path=written(tmp_path, bmp(rows(bgra), 32))) as source:
        assert np.array_equal(read_all(source), RGBA[:, :, :3])
    data = bmp(rows(bgra), 32, compression=3, masks=masks)
    with opened(image_path=written(tmp_path, data)) as source:
        assert np.array_equal(read_all(source), RGBA)


def test_alpha_that_is_zero_everywhere_is_ignored(
    tmp_path: Path, opened: Opener, context: RecordingContext
) -> None:
    bgra = np.ascontiguousarray(RGBA[:, :, [2, 1, 0, 3]])
    bgra[:, :, 3] = 0
    data = bmp(rows(bgra), 32, compression=3, masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    with opened(image_path=written(tmp_path, data)) as source:
        assert np.array_equal(read_all(source), RGBA[:, :, :3])
    (warning,) = context.warnings
    assert "transparent" in warning


def test_sixteen_bits_per_pixel_palettes_and_run_lengths_are_read(
    tmp_path: Path, opened: Opener
) -> None:
    packed = (GRAY.astype("<u2") >> 3) * (1 << 11 | 1)
    data = bmp(rows(packed), 16, compression=3, masks=(0xF800, 0x7E0, 0x1F, 0))
    with opened(image_path=written(tmp_path, data)) as source:
        out = read_all(source)
    assert np.abs(out[:, :, 0].astype(int) - GRAY).max() <= 8
    assert not out[:, :, 1].any()

    palette = b"".join(bytes([index, 7, 255 - index, 0]) for index in range(256))
    runs = b"".join(bytes([2, value]) * (WIDTH // 2) + b"\0\0" for value in range(HEIGHT)) + b"\0\1"
    data = bmp(runs, 8, compression=1, palette=palette)
    with opened(image_path=written(tmp_path, data)) as source:
        out = read_all(source)
    assert out[:, 0].tolist() == [[255 - row, 7, row] for row in reversed(range(HEIGHT))]


def test_the_profile_of_a_bmp_is_kept(
    tmp_path: Path, opened: Opener, context: RecordingContext
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    bgr = rows(np.ascontiguousarray(RGBA[:, :, 2::-1]))
    path = written(tmp_path, bmp(bgr, 24, profile=profile, space=EMBEDDED))
    with opened(image_path=path) as source:
        assert source.metadata.icc == profile
        assert np.array_equal(read_all(source), RGBA[:, :, :3])
    with opened(image_path=written(tmp_path, bmp(bgr, 24, profile=b"x", space=CALIBRATED))):
        pass
    (warning,) = context.warnings
    assert "colour tags" in warning


@pytest.mark.parametrize("compression", [None, "tga_rle"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("orientation", [-1, 1])
def test_a_tga_of_every_kind_is_read_exactly(
    tmp_path: Path, opened: Opener, orientation: int, bands: int, compression: str | None
) -> None:
    colours = RGBA[:, :, :3] if bands > 2 else RGBA[:, :, :1]
    pixels = colours if bands % 2 else np.dstack([colours, RGBA[:, :, 3:]])
    path = tmp_path / "in.tga"
    save(path, pixels.squeeze(), compression=compression, orientation=orientation)
    with opened(image_path=path) as source:
        assert np.array_equal(read_all(source), pixels)


def tga_2(alpha: int) -> bytes:
    """Four pixels with the extension area of version 2."""
    header = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 4, 1, 32, 0x28)
    pixels = bytes([30, 60, 90, 128] * 4)
    extension = struct.pack("<H41s324s", 495, b"Ann", b"A boat".ljust(81, b"\0") + b"at sea")
    extension = extension.ljust(494, b"\0") + bytes([alpha])
    footer = struct.pack("<II18s", len(header) + len(pixels), 0, b"TRUEVISION-XFILE.\0")
    return header + pixels + extension + footer


@pytest.mark.parametrize(
    ("alpha", "wanted"), [(0, [90, 60, 30]), (3, [90, 60, 30, 128]), (4, [179, 120, 60, 128])]
)
def test_a_tgas_extension_declares_alpha_and_author(
    tmp_path: Path, opened: Opener, alpha: int, wanted: list[int]
) -> None:
    with opened(image_path=written(tmp_path, tga_2(alpha))) as source:
        assert read_all(source)[0, 0].tolist() == wanted
        assert source.metadata.texts == (("Author", "Ann"), ("Comment", "A boat\nat sea"))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (bmp(b"", 24, height=2_000_000_000), ErrorCode.INPUT_TOO_LARGE),
        (bmp(b"", 8, height=17_000_000, compression=1), ErrorCode.INPUT_TOO_LARGE),
        (bmp(b"", 24, height=0), ErrorCode.INPUT_UNREADABLE),
        (bmp(bytes(99), 24), ErrorCode.INPUT_UNREADABLE),
        (bmp(bytes(400), 24)[:30], ErrorCode.INPUT_UNREADABLE),
        (bmp(bytes(400), 24, compression=4), ErrorCode.UNSUPPORTED_FORMAT),
        (tga_2(0)[:22], ErrorCode.INPUT_UNREADABLE),
        (
            struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, 65_535, 65_535, 24, 0),
            ErrorCode.INPUT_TOO_LARGE,
        ),
    ],
)
def test_a_hostile_bitmap_ends_in_one_clear_error(
    tmp_path: Path, opened: Opener, data: bytes, code: ErrorCode
) -> None:
    assert error_of(opened, image_path=written(tmp_path, data)).code is code
