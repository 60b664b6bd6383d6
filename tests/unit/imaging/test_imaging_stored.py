"""A PNG's rows taken over as they are stored: the same pixels, or nothing."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image

from upscaled_imaging.destinations import FileDestination
from upscaled_imaging.dimensions import Plan
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.output import Output
from upscaled_imaging.rows import Picture
from upscaled_imaging.stored import stored_rows
from upscaled_imaging.write import open_sink
from upscaled_protocol.messages import Size

NOISE = np.random.default_rng(5)
WIDTH, HEIGHT = 90, 70
PICTURE = Picture(WIDTH, HEIGHT, 3, 8)
# Three pixels of a row each: small enough to break every one of its bytes.
SMALL = Picture(3, 2, 3, 8)
PIXELS = NOISE.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A file of the chunks, each with its length and checksum."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in chunks:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        parts += [struct.pack(">I", len(body)), kind, body, checksum]
    return b"".join(parts)


def small(
    *, header: bytes | None = None, rows: bytes | None = None, stream: bytes | None = None
) -> bytes:
    """A file of `SMALL`, with what is given in place of what belongs there."""
    rows = b"".join([b"\0" + bytes(range(9))] * 2) if rows is None else rows
    stream = zlib.compress(rows) if stream is None else stream
    header = struct.pack(">IIBBBBB", 3, 2, 8, 2, 0, 0, 0) if header is None else header
    return png((b"IHDR", header), (b"IDAT", stream), (b"IEND", b""))


def saved(pixels: np.ndarray, **options: Any) -> bytes:
    image = pyvips.Image.new_from_array(pixels)
    if pixels.dtype == np.uint16:
        image = image.copy(interpretation="grey16" if image.bands < 3 else "rgb16")
    data: bytes = image.pngsave_buffer(**options)
    return data


def output_at(path: Path, plan: Plan, kind: Any = "png", **metadata: Any) -> Output:
    return Output(FileDestination(path), kind, None, plan, Metadata(**metadata))


def whole(width: int = WIDTH, height: int = HEIGHT) -> Plan:
    size = Size(width=width, height=height)
    return Plan(1.0, size, size)


def write(output: Output, data: bytes, bands: int = 3, bits: int = 8) -> bool:
    """Whether a sink took the file; what it took is published."""
    with open_sink(output, Size(width=WIDTH, height=HEIGHT), bands, bits) as sink:
        if not sink.write_png(data):
            return False
        sink.commit()
        return True


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("filters", ["none", "paeth", "all"])
def test_a_file_of_the_same_picture_is_taken_pixel_for_pixel(
    tmp_path: Path, bands: int, dtype: type, filters: str
) -> None:
    pixels = NOISE.integers(0, np.iinfo(dtype).max + 1, (HEIGHT, WIDTH, bands), dtype)
    path = tmp_path / "out.png"
    data = saved(pixels, filter=filters)
    assert write(output_at(path, whole()), data, bands, 8 * pixels.itemsize)
    written = pyvips.Image.new_from_file(str(path), fail_on="warning").numpy()
    assert np.array_equal(written.reshape(pixels.shape), pixels)
    picture = Picture(WIDTH, HEIGHT, bands, 8 * pixels.itemsize)
    assert stored_rows(path.read_bytes(), picture) == stored_rows(data, picture) is not None


def test_the_output_tells_what_the_input_told_and_nothing_of_the_files_own(tmp_path: Path) -> None:
    stranger = pyvips.Image.new_from_array(PIXELS).copy(xres=1, yres=1)
    stranger.set_type(pyvips.GValue.blob_type, "xmp-data", b"<x:theirs/>")
    profile = bytes(pyvips.Operation.call("profile_load", "p3"))
    path = tmp_path / "out.png"
    output = output_at(path, whole(), icc=profile, dpi=300.0, xmp=b"<x:ours/>")
    assert write(output, stranger.pngsave_buffer(profile="srgb"))
    written = pyvips.Image.new_from_file(str(path), fail_on="warning")
    assert bytes(written.get("icc-profile-data")) == profile
    assert written.xres * 25.4 == pytest.approx(300, rel=0.001)
    assert bytes(written.get("xmp-data")) == b"<x:ours/>"
    assert b"theirs" not in path.read_bytes()


@pytest.mark.parametrize(
    "data",
    [
        saved(PIXELS[:-1]),
        saved(PIXELS[:, :-1]),
        saved(PIXELS[:, :, :1]),
        saved(PIXELS.astype(np.uint16)),
        saved(PIXELS, interlace=True),
        saved(PIXELS, palette=True),
        pyvips.Image.new_from_array(PIXELS).jpegsave_buffer(),
        b"",
    ],
    ids=["lower", "narrower", "gray", "deeper", "interlaced", "palette", "jpeg", "empty"],
)
def test_a_file_of_another_kind_of_picture_is_left_to_be_decoded(data: bytes) -> None:
    assert stored_rows(data, PICTURE) is None


def test_a_transparent_colour_is_left_to_be_decoded() -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG", transparency=(1, 2, 3))
    assert stored_rows(file.getvalue(), PICTURE) is None


def test_what_is_resampled_cropped_or_no_png_is_left_to_be_decoded(tmp_path: Path) -> None:
    data = saved(PIXELS)
    path = tmp_path / "out"
    size, half = Size(width=WIDTH, height=HEIGHT), Size(width=WIDTH // 2, height=HEIGHT // 2)
    assert not write(output_at(path, Plan(0.5, half, half)), data)
    assert not write(output_at(path, Plan(1.0, size, half)), data)
    assert not write(output_at(path, whole(), "tiff"), data)
    assert not path.exists()


def test_rows_may_still_be_written_where_a_file_was_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    with open_sink(
        output_at(path, whole()), Size(width=WIDTH, height=HEIGHT), bands=3, bits=8
    ) as sink:
        assert not sink.write_png(saved(PIXELS)[:-20])
        sink.write(PIXELS)
        sink.commit()
    assert np.array_equal(pyvips.Image.new_from_file(str(path)).numpy(), PIXELS)


def test_a_file_with_any_byte_changed_or_missing_is_not_taken() -> None:
    data = small()
    assert stored_rows(data, SMALL) is not None
    for at in range(len(data)):
        assert stored_rows(data[:at], SMALL) is None, at
        for bit in range(8):
            broken = bytearray(data)
            broken[at] ^= 1 << bit
            assert stored_rows(bytes(broken), SMALL) is None, (at, bit)


@pytest.mark.parametrize(
    "data",
    [
        small(rows=b"\0" + bytes(9)),
        small(rows=bytes(21)),
        small(rows=b"\5" + bytes(19)),
        small(rows=b""),
        small(stream=b""),
        small(stream=zlib.compress(bytes(20))[:-1]),
        small(stream=zlib.compress(bytes(20))[:-4] + bytes(4)),
        small(stream=zlib.compress(bytes(20)) + b"more"),
        png((b"IEND", b"")),
    ],
    ids=[
        "a row too few",
        "a byte too many",
        "no such filter",
        "no rows",
        "no stream",
        "an open end",
        "a wrong checksum",
        "bytes behind the stream",
        "no header",
    ],
)
def test_a_file_of_rows_that_are_not_whole_is_not_taken(data: bytes) -> None:
    assert stored_rows(data, SMALL) is None


def test_a_file_of_countless_chunks_is_decoded_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    data = small()
    at = data.index(b"IDAT") - 4
    empty = png((b"IDAT", b""))[8:]
    assert stored_rows(data[:at] + empty * 20 + data[at:], SMALL) is not None
    monkeypatch.setattr("upscaled_imaging.stored._MOST_CHUNKS", 20)
    assert stored_rows(data[:at] + empty * 20 + data[at:], SMALL) is None
