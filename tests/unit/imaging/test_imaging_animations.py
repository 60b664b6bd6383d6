"""Animated formats with one frame are pictures; a GIF's canvas around its frame is transparent."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from opened_pictures import RGB, Opener, error_of, read_all, save
from recording import RecordingContext

CANVAS = (16, 10)
FRAME = (4, 2)
PIXELS = np.full((6, 8), 2, np.uint8)
COLOURS = [255, 0, 0, 0, 255, 0, 0, 0, 255]


def chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def png_with(path: Path, *chunks: bytes, fctl: bool) -> Path:
    """A PNG that declares one frame, which is its own picture or a second one."""

    def packed(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    save(path, RGB)
    data = path.read_bytes()
    at = data.index(b"IDAT") - 4
    control = packed(b"acTL", struct.pack(">II", 1, 0))
    if fctl:
        height, width = RGB.shape[:2]
        control += packed(b"fcTL", struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 10, 0, 0))
    path.write_bytes(data[:at] + control + data[at:])
    return path


@pytest.mark.parametrize("is_frame", [True, False])
def test_an_apng_of_one_frame_is_a_picture(
    tmp_path: Path, opened: Opener, context: RecordingContext, is_frame: bool
) -> None:
    with opened(image_path=png_with(tmp_path / "one.png", fctl=is_frame)) as source:
        assert np.array_equal(read_all(source), RGB)
    # If the frame is not the PNG's own picture, there are two pictures.
    assert bool(context.warnings) != is_frame


def test_a_webp_of_one_frame_is_a_picture_on_its_canvas(tmp_path: Path, opened: Opener) -> None:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "WEBP", lossless=True)
    height, width = RGB.shape[:2]
    sizes = [n.to_bytes(3, "little") for n in (2, 1, width - 1, height - 1, 100)]
    frame = b"".join(sizes) + b"\0" + file.getvalue()[12:]
    canvas = (width + 9).to_bytes(3, "little") + (height + 9).to_bytes(3, "little")
    body = chunk(b"VP8X", b"\2\0\0\0" + canvas) + chunk(b"ANIM", bytes(6)) + chunk(b"ANMF", frame)
    path = tmp_path / "one.webp"
    path.write_bytes(chunk(b"RIFF", b"WEBP" + body))
    with opened(image_path=path) as source:
        assert (source.width, source.height, source.bands) == (width + 10, height + 10, 4)
        rows = read_all(source)
    inside = rows[2 : 2 + height, 4 : 4 + width]
    assert np.array_equal(inside[:, :, :3], RGB)
    assert rows[:, :, 3].sum() == 255 * width * height


def test_an_avif_sequence_of_one_frame_is_a_picture(tmp_path: Path, opened: Opener) -> None:
    path = tmp_path / "film.avif"
    frames = [Image.fromarray(np.roll(RGB, shift, axis=1)) for shift in (0, 9)]
    frames[0].save(path, save_all=True, append_images=frames[1:], quality=100)
    assert "animated" in error_of(opened, image_path=path).message
    data = bytearray(path.read_bytes())
    for table, place in ((b"stsz", 12), (b"stts", 12), (b"stsc", 16)):
        struct.pack_into(">I", data, data.index(table) + place, 1)
    path.write_bytes(data)
    with opened(image_path=path) as source:
        assert (source.width, source.height) == (53, 37)


def gif(path: Path, place: tuple[int, int], canvas: tuple[int, int], **options: Any) -> Path:
    """A GIF whose canvas is larger than the picture on it."""
    image = Image.fromarray(PIXELS, "P")
    image.putpalette(COLOURS + [9] * 759)
    if "transparency" in options:
        image.putpixel((0, 0), options["transparency"])
    file = io.BytesIO()
    image.save(file, "GIF", optimize=False, **options)
    data = bytearray(file.getvalue())
    struct.pack_into("<HH", data, 6, *canvas)
    data[11] = 1  # its background, which viewers do not paint
    at = 13 + 3 * (2 << (data[10] & 7))
    struct.pack_into("<HH", data, data.index(b"\x2c", at) + 1, *place)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("options", [{}, {"transparency": 1}, {"comment": b"x" * 700}])
def test_the_canvas_around_a_gifs_picture_is_transparent(
    tmp_path: Path, opened: Opener, options: dict[str, Any]
) -> None:
    with opened(image_path=gif(tmp_path / "in.gif", FRAME, CANVAS, **options)) as source:
        assert (source.width, source.height, source.bands) == (*CANVAS, 4)
        rows = read_all(source)
    alpha = np.zeros(CANVAS[::-1], np.uint8)
    alpha[2:8, 4:12] = 255
    if "transparency" in options:
        alpha[2, 4] = 0
    assert np.array_equal(rows[:, :, 3], alpha)
    assert (rows[alpha > 0, :3] == (0, 0, 255)).all()


def test_a_gif_that_covers_its_canvas_has_no_alpha(tmp_path: Path, opened: Opener) -> None:
    with opened(image_path=gif(tmp_path / "in.gif", (0, 0), (8, 6))) as source:
        assert source.bands == 3
