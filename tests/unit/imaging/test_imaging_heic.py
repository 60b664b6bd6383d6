"""A HEIC is read exactly, upright, and with its metadata."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms

from heif_files import Item, auxiliary_box, box, coded, full_box, heif, size_box
from opened_pictures import ORIENTATION, error_of, read_all
from recording import RecordingContext
from upscaled_imaging import formats, kinds
from upscaled_protocol.errors import ErrorCode, JobError

pillow_heif = pytest.importorskip("pillow_heif", reason="needs pip install 'upscaled[heic]'")
Opener = Callable[..., Any]
HEIGHT, WIDTH = 64, 96
Y, X = np.mgrid[:HEIGHT, :WIDTH]
RGB = np.stack([X * 255 // WIDTH, Y * 255 // HEIGHT, (X + Y) * 255 // 160], -1).astype(np.uint8)
ALPHA = (255 - RGB[:, :, :1]).astype(np.uint8)
NCLX = struct.pack(">4sHHHB", b"nclx", 1, 13, 0, 0x80)


def encoded(pixels: np.ndarray, metadata: dict[str, bytes] | None = None, **options: Any) -> bytes:
    """Lossless; 16 bits become 10 unless `bit_depth` says more. metadata: profile, EXIF, XMP."""
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    deep = ";16" if pixels.dtype == np.uint16 else ""
    size = (pixels.shape[1], pixels.shape[0])
    picture = pillow_heif.from_bytes(mode + deep, size, pixels.tobytes())
    picture.info.update(metadata or {})
    file = io.BytesIO()
    picture.save(file, quality=-1, chroma=444, matrix_coefficients=0, **options)
    return file.getvalue()


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "in.heic"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_eight_bits_are_read_exactly(tmp_path: Path, opened: Opener, bands: int) -> None:
    colours = RGB if bands > 2 else RGB[:, :, :1]
    pixels = colours if bands % 2 else np.concatenate([colours, ALPHA], axis=2)
    with opened(image_path=written(tmp_path, encoded(pixels))) as source:
        assert source.bits == 8
        out = read_all(source)
    if bands == 2:  # gray with transparency is decoded as RGB with transparency
        pixels = pixels[:, :, [0, 0, 0, 1]]
    assert out.shape == pixels.shape
    visible = pixels[:, :, -1:] > 0 if bands % 2 == 0 else True
    assert np.abs(out.astype(int) - pixels).max(where=visible, initial=0) <= (
        6 if bands == 2 else 0
    )


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("bands", [1, 4])
def test_ten_and_twelve_bits_become_sixteen_from_black_to_white(
    tmp_path: Path, opened: Opener, bands: int, bits: int
) -> None:
    pixels = (
        (np.concatenate([RGB, 255 - RGB[:, :, :1]], axis=2)[:, :, :bands]).astype(np.uint16) * 257
    )
    pixels[0, 0], pixels[1, 1] = 0, 65_535
    path = written(tmp_path, encoded(pixels, bit_depth=bits))
    with opened(image_path=path) as source:
        assert source.bits == 16
        out = read_all(source)
    visible = pixels[:, :, -1:] > 0 if bands == 4 else True
    assert np.abs(out.astype(int) - pixels).max(where=visible, initial=0) <= 2 ** (16 - bits) * 2
    assert (out.min(), out.max()) == (0, 65_535)


def test_gray_of_limited_range_goes_from_black_to_white(tmp_path: Path, opened: Opener) -> None:
    limited = np.rint(16 + RGB[:, :, :1] * (219 / 255)).astype(np.uint8)
    data = encoded(limited)
    assert data.count(NCLX) == 1
    path = written(tmp_path, data.replace(NCLX, NCLX[:-1] + b"\0"))
    with opened(image_path=path) as source:
        assert np.abs(read_all(source).astype(int) - RGB[:, :, :1]).max() <= 1


@pytest.mark.parametrize(
    ("turns", "wanted"),
    [
        ([box(b"irot", b"\1")], np.rot90(RGB)),
        ([box(b"imir", b"\1")], RGB[:, ::-1]),
        ([box(b"irot", b"\3"), box(b"imir", b"\0")], np.rot90(RGB, 3)[::-1]),
    ],
)
def test_a_picture_is_turned_once_although_exif_has_an_orientation_too(
    tmp_path: Path, opened: Opener, turns: list[bytes], wanted: np.ndarray
) -> None:
    picture = coded(encoded(RGB))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    items = [
        picture._replace(properties=(*picture.properties, *turns)),
        Item(b"Exif", bytes(4) + exif.tobytes().removeprefix(b"Exif\0\0")),
    ]
    path = written(tmp_path, heif(items, [(b"cdsc", 2, [1])]))
    with opened(image_path=path) as source:
        assert source.was_turned
        resized = source.metadata.resized(source.width, source.height, None)
        assert np.array_equal(read_all(source), wanted)
    upright = Image.Exif()
    upright.load(resized.exif)
    assert upright[ORIENTATION] == 1


def test_profile_exif_and_xmp_are_kept(tmp_path: Path, opened: Opener) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[315] = "Ann Author"
    metadata = {"icc_profile": icc, "exif": exif.tobytes(), "xmp": b"<x:xmpmeta/>"}
    with opened(image_path=written(tmp_path, encoded(RGB, metadata))) as source:
        assert source.metadata.icc == icc
        assert source.metadata.xmp == b"<x:xmpmeta/>"
        assert b"Ann Author" in source.metadata.exif


def test_colour_tags_become_a_profile(tmp_path: Path, opened: Opener) -> None:
    data = encoded(RGB)
    assert data.count(NCLX) == 1
    display_p3 = struct.pack(">4sHHHB", b"nclx", 12, 13, 0, 0x80)
    with opened(image_path=written(tmp_path, data.replace(NCLX, display_p3))) as source:
        assert source.metadata.icc == bytes(pyvips.Image.profile_load("p3"))


def test_a_grid_is_put_together(tmp_path: Path, opened: Opener) -> None:
    left, right = (coded(encoded(half.copy())) for half in (RGB[:, :64], RGB[:, 32:]))
    # Version, flags, rows - 1, columns - 1, width, height: the right tile exceeds the edge.
    layout = struct.pack(">BBBBHH", 0, 0, 0, 1, 120, HEIGHT)
    items = [left, right, Item(b"grid", layout, (size_box(120, HEIGHT),))]
    path = written(tmp_path, heif(items, [(b"dimg", 3, [1, 2])], main=3))
    with opened(image_path=path) as source:
        wanted = np.concatenate([RGB[:, :64], RGB[:, 32 : 32 + 56]], axis=1)
        assert np.array_equal(read_all(source), wanted)


def test_the_main_one_of_several_pictures_is_taken_and_thumbnails_do_not_count(
    tmp_path: Path, opened: Opener, context: RecordingContext
) -> None:
    other = coded(encoded(np.zeros_like(RGB)))
    items = [other, coded(encoded(RGB)), other]
    data = heif(items, [(b"thmb", 3, [2])], main=2)
    with opened(image_path=written(tmp_path, data)) as source:
        assert np.array_equal(read_all(source), RGB)
    assert context.warnings == ["the input holds 2 pictures: only the main one was taken"]


@pytest.mark.parametrize(
    ("urn", "what"),
    [
        ("urn:com:apple:photo:2020:aux:hdrgainmap", "an HDR gain map"),
        ("urn:mpeg:hevc:2015:auxid:2", "a depth map"),
        ("urn:com:apple:photo:2018:aux:portraiteffectsmatte", "an auxiliary picture"),
    ],
)
def test_auxiliary_pictures_are_named(
    tmp_path: Path, opened: Opener, context: RecordingContext, urn: str, what: str
) -> None:
    picture = coded(encoded(RGB))
    extra = picture._replace(properties=(*picture.properties, auxiliary_box(urn)))
    data = heif([picture, extra], [(b"auxl", 2, [1])])
    with opened(image_path=written(tmp_path, data)) as source:
        assert source.bands == 3
        assert np.array_equal(read_all(source), RGB)
    (warning,) = context.warnings
    assert what in warning


def test_a_sequence_is_refused(tmp_path: Path, opened: Opener) -> None:
    sizes = full_box(b"stsz", 0, struct.pack(">II", 100, 3))
    film = sizes
    for kind in (b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        film = box(kind, film)
    data = box(b"ftyp", b"hevc", bytes(4), b"msf1") + film
    error = error_of(opened, image_path=written(tmp_path, data))
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert "animated" in error.message


def test_another_codec_is_named(tmp_path: Path, opened: Opener) -> None:
    data = heif([Item(b"avc1", b"pixels", (size_box(64, 64),))], brand=b"mif1")
    error = error_of(opened, image_path=written(tmp_path, data))
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert "H.264" in error.message


def test_the_size_is_checked_before_a_pixel_is_decoded(tmp_path: Path, opened: Opener) -> None:
    picture = coded(encoded(RGB))
    properties = tuple(
        size_box(60_000, 60_000) if one[4:8] == b"ispe" else one for one in picture.properties
    )
    data = heif([picture._replace(properties=properties, data=b"no pixels")])
    error = error_of(opened, image_path=written(tmp_path, data))
    assert error.code is ErrorCode.INPUT_TOO_LARGE
    assert "60000x60000" in error.message


def absurd_overlay() -> bytes:
    """A small picture that puts one large picture on itself many times."""
    tile = coded(encoded(RGB))
    large = tile._replace(
        properties=tuple(
            size_box(4096, 4096) if one[4:8] == b"ispe" else one for one in tile.properties
        )
    )
    layers = 5000
    layout = struct.pack(">BB4HHH", 0, 0, 0, 0, 0, 0, WIDTH, HEIGHT) + bytes(4 * layers)
    items = [large, Item(b"iovl", layout, (size_box(WIDTH, HEIGHT),))]
    return heif(items, [(b"dimg", 2, [1] * layers)], main=2)


def absurd_metadata() -> bytes:
    """A block that describes each of many pictures."""
    tile, block = coded(encoded(RGB)), bytes(1024 * 1024)
    items = [*[tile] * 100, Item(b"Exif", block)]
    return heif(items, [(b"cdsc", 101, range(1, 101))])


def endless_parts() -> bytes:
    """A picture that is derived from itself."""
    items = [Item(b"iden", b"", (size_box(WIDTH, HEIGHT),))]
    return heif(items, [(b"dimg", 1, [1])])


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (absurd_overlay, "megapixels"),
        (absurd_metadata, "100 MiB"),
        (endless_parts, "too deep"),
        (lambda: encoded(RGB)[:-200], "broken or truncated"),
        (lambda: encoded(RGB)[:300], "broken or truncated"),
        (lambda: heif([], main=7), "main picture"),
    ],
)
def test_a_hostile_file_ends_in_one_clear_error(
    tmp_path: Path, opened: Opener, data: Callable[[], bytes], named: str
) -> None:
    error = error_of(opened, image_path=written(tmp_path, data()))
    assert error.code is ErrorCode.INPUT_UNREADABLE
    assert named in error.message


def test_a_coded_picture_that_is_larger_than_declared_is_not_decoded(
    tmp_path: Path, opened: Opener
) -> None:
    picture = coded(encoded(np.zeros((512, 512, 1), np.uint8)))
    properties = tuple(
        size_box(16, 16) if one[4:8] == b"ispe" else one for one in picture.properties
    )
    data = heif([picture._replace(properties=properties)])
    error = error_of(opened, image_path=written(tmp_path, data))
    assert error.code is ErrorCode.INPUT_UNREADABLE


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), ErrorCode.OUT_OF_MEMORY),
        (RuntimeError("Out of memory"), ErrorCode.OUT_OF_MEMORY),
        (
            RuntimeError("Memory allocation error: Unspecified: Allocating 36578319 bytes failed"),
            ErrorCode.OUT_OF_MEMORY,
        ),
        (
            RuntimeError("Memory allocation error: Security limit exceeded: Image size 8192x8192"),
            ErrorCode.INPUT_UNREADABLE,
        ),
    ],
)
def test_a_lack_of_memory_is_not_confused_with_a_limit_of_libheif(
    error: Exception, code: ErrorCode
) -> None:
    assert formats.decoder_error(error).code is code


def test_without_its_package_the_sentence_names_the_extra(
    tmp_path: Path, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, encoded(RGB))
    monkeypatch.setattr(kinds, "_is_installed", lambda module: False)
    error = error_of(opened, image_path=path)
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT
    assert "`pip install 'upscaled[heic]'`" in error.message
    kind = kinds.kind_of(path.read_bytes())
    assert kind is not None
    assert kind.is_picture
    assert not kind.is_read


def test_a_version_that_gives_pixels_of_freed_memory_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "pillow_heif-1.5.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: pillow-heif\nVersion: 1.5.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(JobError, match=r"1\.5\.0 is installed.*: run `pip install ") as caught:
        formats.import_decoder("HEIC", "pillow_heif", "pillow-heif")
    assert caught.value.code is ErrorCode.UNSUPPORTED_FORMAT
