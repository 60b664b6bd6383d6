"""Files whose damage a decoder passes over: the picture goes on behind it, gray or shifted."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image

from opened_pictures import Opener, error_of, read_all, save
from recording import RecordingContext
from upscaled_imaging.tags import Reader, TagType
from upscaled_protocol.errors import ErrorCode

RNG = np.random.default_rng(11)
NOISE = RNG.integers(0, 256, (120, 160, 3), dtype=np.uint8)
ON_ITS_SIDE = 6
TILE_PLACES, TILE_SIZES = 324, 325

# How each file is saved, and which of its bytes become zeros: from and to, in thousandths.
DAMAGED: dict[str, tuple[dict[str, Any], int, int]] = {
    "restarts.jpg": ({"restart_marker_blocks": 4}, 500, 520),
    "scans.jpg": ({"progressive": True}, 500, 520),
    "colours.gif": ({}, 500, 1000),
}


def damaged(path: Path, *, exif: Image.Exif | None = None) -> Path:
    options, first, last = DAMAGED[path.name]
    save(path, NOISE, **options, **({} if exif is None else {"exif": exif}))
    data = path.read_bytes()
    start, end = len(data) * first // 1000, len(data) * last // 1000
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    return path


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_that_a_decoder_notices_is_told_and_the_rest_is_read(
    tmp_path: Path, opened: Opener, context: RecordingContext, name: str
) -> None:
    path = damaged(tmp_path / name)
    with opened(image_path=path) as source:
        rows = read_all(source, 16)
    assert rows.shape == NOISE.shape
    assert [text for text in context.warnings if "may be damaged" in text] == context.warnings
    assert len(context.warnings) == 1
    if path.suffix == ".jpg":  # Pillow reads no GIF of which a part is missing
        assert np.array_equal(rows, np.asarray(Image.open(path)))


def test_a_damaged_picture_is_turned_too(
    tmp_path: Path, opened: Opener, context: RecordingContext
) -> None:
    exif = Image.Exif()
    exif[0x0112] = ON_ITS_SIDE
    path = damaged(tmp_path / "restarts.jpg", exif=exif)
    with opened(image_path=path) as source:
        rows = read_all(source, 16)
    assert np.array_equal(rows, np.rot90(np.asarray(Image.open(path)), -1))
    assert len(context.warnings) == 1


def test_a_jpeg_whose_rest_is_zeros_is_unreadable(tmp_path: Path, opened: Opener) -> None:
    path = save(tmp_path / "stopped.jpg", NOISE)
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(len(data) - half))
    error = error_of(opened, image_path=path)
    assert error.code is ErrorCode.INPUT_UNREADABLE
    assert "its end is missing" in error.message


def test_zeros_behind_a_jpegs_end_are_no_damage(
    tmp_path: Path, opened: Opener, context: RecordingContext
) -> None:
    path = save(tmp_path / "padded.jpg", NOISE)
    path.write_bytes(path.read_bytes() + bytes(3_000_000))
    with opened(image_path=path) as source:
        assert np.array_equal(read_all(source), np.asarray(Image.open(path)))
    assert context.warnings == []


def test_a_decoders_remark_that_concerns_no_pixel_is_not_told(
    tmp_path: Path, opened: Opener, context: RecordingContext
) -> None:
    path = save(tmp_path / "remark.jpg", NOISE)
    data = bytearray(path.read_bytes())
    # The scan's last coefficient, which a sequential JPEG must state as 63 and nobody reads.
    data[data.index(b"\xff\xda") + 12] = 0
    path.write_bytes(data)
    image = pyvips.Image.jpegload_buffer(bytes(data), fail_on="warning")
    with pytest.raises(pyvips.Error, match="Invalid SOS parameters"):
        image.copy_memory()
    with opened(image_path=path) as source:
        assert np.array_equal(read_all(source), np.asarray(Image.open(path)))
    assert context.warnings == []


SOUND: list[tuple[tuple[int, int], str, dict[str, Any]]] = [
    *(((64, 48), "RGB", {"subsampling": sampling}) for sampling in ("4:4:4", "4:2:2", "4:2:0")),
    *((size, "RGB", {}) for size in ((1, 1), (8, 8), (17, 33), (160, 1), (1, 160))),
    ((64, 48), "L", {}),
    ((64, 48), "CMYK", {}),
    ((64, 48), "RGB", {"optimize": True}),
    ((64, 48), "RGB", {"progressive": True}),
    ((64, 48), "RGB", {"restart_marker_rows": 1}),
]


@pytest.mark.parametrize(("size", "mode", "options"), SOUND)
def test_a_sound_jpeg_gets_no_warning_of_damage(
    tmp_path: Path,
    opened: Opener,
    context: RecordingContext,
    size: tuple[int, int],
    mode: str,
    options: dict[str, Any],
) -> None:
    path = tmp_path / "sound.jpg"
    Image.fromarray(NOISE).resize(size).convert(mode).save(path, **options)
    data = path.read_bytes()
    for padding in (b"", bytes(30)):  # some cameras fill up the data
        path.write_bytes(data[:-2] + padding + data[-2:])
        with opened(image_path=path) as source:
            assert read_all(source).shape[:2] == (source.height, source.width)
    assert [text for text in context.warnings if "damaged" in text] == []


@pytest.mark.parametrize(
    ("mode", "sampling"), [("RGB", "4:4:4"), ("RGB", "4:2:2"), ("RGB", "4:2:0"), ("L", "4:4:4")]
)
def test_damage_that_shifts_the_rest_of_a_jpeg_is_told(
    tmp_path: Path, opened: Opener, context: RecordingContext, mode: str, sampling: str
) -> None:
    path = tmp_path / "shifted.jpg"
    Image.fromarray(NOISE).convert(mode).save(path, subsampling=sampling)
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(200) + data[half + 200 :])
    with opened(image_path=path) as source:
        rows = read_all(source, 16)
    assert np.array_equal(rows.squeeze(), np.asarray(Image.open(path)))
    (told,) = context.warnings
    assert "left over behind its last row" in told


@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_whose_rest_is_zeros_gets_a_warning(
    tmp_path: Path, opened: Opener, context: RecordingContext, lossless: bool
) -> None:
    path = tmp_path / "stopped.webp"
    Image.fromarray(NOISE).resize((320, 240)).save(path, lossless=lossless, quality=90)
    data = path.read_bytes()
    assert len(data) > 40_000
    told = "the input may be damaged (it ends in zeros): look at the picture before you use it"
    for rest, warnings in (
        (data + bytes(20_000), []),
        (data[: len(data) // 2].ljust(len(data), b"\0"), [told]),
    ):
        path.write_bytes(rest)
        with opened(image_path=path) as source:
            read_all(source)
        assert [text for text in context.warnings if "damaged" in text] == warnings


def test_an_empty_webp_is_no_damage(
    tmp_path: Path, opened: Opener, context: RecordingContext
) -> None:
    for quality in (50, 100):
        Image.new("RGB", (2000, 2000), "white").save(tmp_path / "white.webp", quality=quality)
        with opened(image_path=tmp_path / "white.webp") as source:
            read_all(source)
    assert context.warnings == []


@pytest.mark.parametrize("name", [*DAMAGED, "sound.jpg"])
def test_what_a_decoder_reports_is_not_the_reason_of_the_next_error(
    tmp_path: Path, opened: Opener, name: str
) -> None:
    path = damaged(tmp_path / name) if name in DAMAGED else save(tmp_path / name, NOISE)
    with opened(image_path=path) as source:
        read_all(source)
    assert pyvips.Error("").detail == ""


def tiled(path: Path) -> Path:
    image = pyvips.Image.new_from_array(NOISE)
    image.tiffsave(str(path), tile=True, tile_width=64, tile_height=64, compression="deflate")
    return path


def number_of_the_fourth_tile(data: bytearray, tag: int) -> tuple[int, int]:
    """Its offset in the file, and the number."""
    reader = Reader(lambda at, count: bytes(data[at : at + count]))
    entry = next(entry for entry in reader.entries(reader.first)[0] if entry.number == tag)
    assert entry.type == TagType.LONG
    at = entry.place + 3 * 4
    return at, struct.unpack_from("<I", data, at)[0]


BLACK_TILE = NOISE.copy()
BLACK_TILE[64:, :64] = 0


@pytest.mark.parametrize(
    ("damage", "read"), [("cut off", None), ("zeros", None), ("no data", BLACK_TILE)]
)
def test_a_tile_that_cannot_be_read_is_an_error_and_one_without_data_is_black(
    tmp_path: Path,
    opened: Opener,
    context: RecordingContext,
    damage: str,
    read: np.ndarray | None,
) -> None:
    path = tiled(tmp_path / "tiles.tif")
    data = bytearray(path.read_bytes())
    place_at, place = number_of_the_fourth_tile(data, TILE_PLACES)
    size_at, size = number_of_the_fourth_tile(data, TILE_SIZES)
    if damage == "cut off":
        struct.pack_into("<I", data, place_at, len(data) - 100)
    elif damage == "zeros":
        data[place : place + size] = bytes(size)
    else:
        struct.pack_into("<I", data, size_at, 0)
    path.write_bytes(data)
    if read is None:
        assert error_of(opened, image_path=path).code is ErrorCode.INPUT_UNREADABLE
    else:
        with opened(image_path=path) as source:
            assert np.array_equal(read_all(source), read)
        assert context.warnings == []
