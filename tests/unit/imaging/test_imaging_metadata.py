"""The metadata of a file is kept, or a warning names it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, IptcImagePlugin

from counting import CountedReader
from opened_pictures import ORIENTATION, read_all
from recording import RecordingContext
from upscaled_imaging import pngtext
from upscaled_imaging.giftext import gif_texts
from upscaled_imaging.leftout import warn_of_left_out
from upscaled_imaging.photoshop import iptc, is_more, resource
from upscaled_imaging.pngtext import png_texts

Opener = Callable[..., Any]
Upscale = Callable[..., str]
PIXELS = np.random.default_rng(3).integers(0, 256, (8, 12, 3), dtype=np.uint8)
ARTIST, DESCRIPTION = 315, 270
GPS, NORTH_OR_SOUTH = 0x8825, 1
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a>sea</a></x:xmpmeta>'
# Two records of application 2: a caption and an author.
IPTC = b"\x1c\x02\x78\0\x09A caption\x1c\x02\x50\0\x03Ada"
CAPTIONS = {(2, 120): b"A caption", (2, 80): b"Ada"}
PHOTOSHOP = resource(0x0404, IPTC)


def exif(orientation: int = 1) -> bytes:
    block = Image.Exif()
    block[ARTIST] = "Ada"
    block[ORIENTATION] = orientation
    block.get_ifd(GPS)[NORTH_OR_SOUTH] = "N"
    return block.tobytes().removeprefix(b"Exif\0\0")


def picture(path: str) -> Any:
    """The file as Pillow reads it; no file stays open."""
    return Image.open(io.BytesIO(Path(path).read_bytes()))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def text(keyword: str, value: bytes, kind: str = "tEXt") -> bytes:
    contents = {
        "tEXt": b"\0" + value,
        "zTXt": b"\0\0" + zlib.compress(value),
        "iTXt": b"\0\0\0\0\0" + value,
        "packed iTXt": b"\0\1\0\0\0" + zlib.compress(value),
    }[kind]
    return chunk(kind[-4:].encode(), keyword.encode() + contents)


def raw(name: str, block: bytes) -> bytes:
    """A block as text, as ImageMagick and exiv2 write it."""
    digits = block.hex()
    lines = [digits[at : at + 72] for at in range(0, len(digits), 72)]
    return "\n".join(["", name, f"{len(block):8}", *lines, ""]).encode()


def png(path: Path, chunks: bytes, *, behind: bool = False) -> Path:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    data = file.getvalue()
    at = data.index(b"IEND" if behind else b"IDAT") - 4
    path.write_bytes(data[:at] + chunks + data[at:])
    return path


def jpeg(path: Path, *segments: tuple[int, bytes], **options: Any) -> Path:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", **options)
    data = file.getvalue()
    added = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments
    )
    path.write_bytes(data[:2] + added + data[2:])
    return path


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "packed iTXt"])
@pytest.mark.parametrize("name", ["exif", "APP1"])
@pytest.mark.parametrize("behind", [False, True])
def test_exif_in_a_text_turns_the_picture_and_is_kept(
    tmp_path: Path, upscale: Upscale, context: RecordingContext, name: str, kind: str, behind: bool
) -> None:
    hidden = text(f"Raw profile type {name}", raw(name, b"Exif\0\0" + exif(6)), kind)
    path = png(tmp_path / "in.png", hidden, behind=behind)
    out = picture(upscale(1, image_path=str(path), output_path=str(tmp_path / "out.png")))
    assert np.array_equal(np.asarray(out), np.rot90(PIXELS, -1))
    assert (out.getexif()[ARTIST], out.getexif()[ORIENTATION]) == ("Ada", 1)
    assert "Raw profile type exif" not in out.info
    assert context.warnings == []


def test_exif_in_its_own_chunk_ranks_before_exif_in_a_text(tmp_path: Path, opened: Opener) -> None:
    hidden = text("Raw profile type exif", raw("exif", exif(6)))
    path = png(tmp_path / "in.png", hidden + chunk(b"eXIf", exif(3)))
    with opened(image_path=path) as source:
        assert np.array_equal(read_all(source), PIXELS[::-1, ::-1])


@pytest.mark.parametrize(
    "value",
    [b"", b"\nexif\n", b"\nexif\n 4\nzzzz\n", b"\nexif\n 40\n4949\n", raw("exif", b"no EXIF")],
)
@pytest.mark.parametrize("name", ["exif", "APP1", "iptc", "generic"])
def test_a_hidden_block_that_is_broken_is_named(
    tmp_path: Path, opened: Opener, context: RecordingContext, name: str, value: bytes
) -> None:
    path = png(tmp_path / "in.png", text(f"Raw profile type {name}", value))
    with opened(image_path=path) as source:
        assert np.array_equal(read_all(source), PIXELS)
    (warning,) = context.warnings
    assert {"APP1": "EXIF or XMP"}.get(name, name.upper()) in warning


@pytest.mark.parametrize(
    ("name", "block"), [("xmp", XMP), ("APP1", b"http://ns.adobe.com/xap/1.0/\0" + XMP)]
)
def test_xmp_in_a_text_is_kept(tmp_path: Path, opened: Opener, name: str, block: bytes) -> None:
    path = png(tmp_path / "in.png", text(f"Raw profile type {name}", raw(name, block)))
    with opened(image_path=path) as source:
        assert source.metadata.xmp == XMP


def captions_of(path: str) -> dict[tuple[int, int], Any] | None:
    found = IptcImagePlugin.getiptcinfo(picture(path))
    return found and {key: found[key] for key in CAPTIONS}


def hidden_captions(path: Path, name: str = "iptc", block: bytes = PHOTOSHOP) -> Path:
    return png(path, text(f"Raw profile type {name}", raw(name, block), "zTXt"))


@pytest.mark.parametrize("kind", ["jpg", "tif", "png"])
@pytest.mark.parametrize("source", ["jpg", "tif", "png", "png 8bim", "png bare"])
def test_captions_are_kept(
    tmp_path: Path, upscale: Upscale, context: RecordingContext, source: str, kind: str
) -> None:
    path = tmp_path / f"in.{source[:3]}"
    if source == "jpg":
        jpeg(path, (0xED, b"Photoshop 3.0\0" + PHOTOSHOP))
    elif source == "tif":
        Image.fromarray(PIXELS).save(path, tiffinfo={33723: IPTC})
    elif source == "png 8bim":
        hidden_captions(path, "8bim")
    elif source == "png bare":
        hidden_captions(path, block=IPTC)
    else:
        hidden_captions(path)
    out = upscale(image_path=str(path), output_path=str(tmp_path / f"out.{kind}"))
    if kind == "png":
        found = png_texts(CountedReader(Path(out).read_bytes()), context.warn).photoshop
        assert iptc(found or b"") == IPTC
    else:
        assert captions_of(out) == CAPTIONS
    assert context.warnings == []


@pytest.mark.parametrize("kind", ["webp", "avif"])
def test_a_format_without_a_place_for_captions_is_named(
    tmp_path: Path, upscale: Upscale, context: RecordingContext, kind: str
) -> None:
    path = hidden_captions(tmp_path / "in.png")
    upscale(image_path=str(path), output_path=str(tmp_path / f"out.{kind}"))
    (warning,) = context.warnings
    assert kind in warning
    assert "IPTC" in warning


TEXTS = text("Author", b"Ada") + text("Title", "Bäume 木".encode(), "iTXt")
OTHERS = text("parameters", b"Steps: 20", "zTXt") + text("Comment", b"by the sea")


@pytest.mark.parametrize("behind", [False, True])
def test_a_png_keeps_its_texts(
    tmp_path: Path, upscale: Upscale, context: RecordingContext, behind: bool
) -> None:
    path = png(tmp_path / "in.png", TEXTS + OTHERS, behind=behind)
    out = picture(upscale(image_path=str(path), output_path=str(tmp_path / "out.png")))
    assert {key: out.info[key] for key in ("Author", "Title", "parameters", "Comment")} == {
        "Author": "Ada",
        "Title": "Bäume 木",
        "parameters": "Steps: 20",
        "Comment": "by the sea",
    }
    assert context.warnings == []


@pytest.mark.parametrize("kind", ["jpg", "tif", "webp", "avif"])
def test_texts_become_exif_and_those_without_a_place_are_named(
    tmp_path: Path, upscale: Upscale, context: RecordingContext, kind: str
) -> None:
    path = png(tmp_path / "in.png", TEXTS + text("parameters", b"Steps: 20"))
    out = picture(upscale(image_path=str(path), output_path=str(tmp_path / f"out.{kind}")))
    tags = out.tag_v2 if kind == "tif" else out.getexif()
    assert tags[ARTIST] == "Ada"
    assert (
        tags[DESCRIPTION].encode("latin-1", "ignore").startswith(b"B") or "木" in tags[DESCRIPTION]
    )
    (warning,) = context.warnings
    assert "(parameters)" in warning


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_texts_beside_exif_are_named(
    tmp_path: Path, upscale: Upscale, context: RecordingContext, kind: str
) -> None:
    path = png(tmp_path / "in.png", TEXTS + chunk(b"eXIf", exif()))
    upscale(image_path=str(path), output_path=str(tmp_path / f"out.{kind}"))
    (warning,) = context.warnings
    assert "(Title)" in warning  # EXIF has the author


@pytest.mark.parametrize("kind", ["jpg", "tif"])
def test_a_text_that_exif_has_too_is_kept_there(
    tmp_path: Path, upscale: Upscale, context: RecordingContext, kind: str
) -> None:
    path = png(tmp_path / "in.png", text("Artist", b"Ada") + chunk(b"eXIf", exif()))
    out = picture(upscale(image_path=str(path), output_path=str(tmp_path / f"out.{kind}")))
    assert (out.tag_v2 if kind == "tif" else out.getexif())[ARTIST] == "Ada"
    assert context.warnings == []


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_copies_of_exif_in_texts_are_dropped(
    tmp_path: Path, upscale: Upscale, context: RecordingContext, kind: str
) -> None:
    copies = text("date:create", b"2020") + text("exif:Orientation", b"6")
    path = png(tmp_path / "in.png", copies + chunk(b"eXIf", exif()))
    out = picture(upscale(image_path=str(path), output_path=str(tmp_path / f"out.{kind}")))
    assert not {"date:create", "exif:Orientation"} & set(out.info)
    assert context.warnings == []


@pytest.mark.parametrize("source", ["jpg", "gif"])
def test_a_comment_is_kept(
    tmp_path: Path, upscale: Upscale, context: RecordingContext, source: str
) -> None:
    path = tmp_path / f"in.{source}"
    if source == "jpg":
        jpeg(path, comment=b"by the sea")
    else:
        Image.fromarray(PIXELS).quantize(8).save(path, comment=b"by the sea" * 40)
    wanted = "by the sea" * (1 if source == "jpg" else 40)
    out = {
        kind: picture(upscale(image_path=str(path), output_path=str(tmp_path / f"out.{kind}")))
        for kind in ("png", "jpg", "tif", "webp")
    }
    assert out["png"].info["Comment"] == wanted
    assert out["jpg"].info["comment"] == wanted.encode()
    assert out["tif"].tag_v2[DESCRIPTION] == wanted
    assert out["webp"].getexif()[DESCRIPTION] == wanted
    assert context.warnings == []


def test_a_gifs_xmp_is_kept(tmp_path: Path, opened: Opener) -> None:
    path = tmp_path / "in.gif"
    Image.fromarray(PIXELS).quantize(8).save(path)
    data = path.read_bytes()
    at = data.index(b"\x2c", 13 + 3 * 8)
    trailer = b"\1" + bytes(range(255, -1, -1)) + b"\0"
    path.write_bytes(data[:at] + b"\x21\xff\x0bXMP DataXMP" + XMP + trailer + data[at:])
    with opened(image_path=path) as source:
        assert source.metadata.xmp == XMP


def test_a_webps_xmp_is_kept(tmp_path: Path, opened: Opener) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "in.webp", xmp=XMP)
    with opened(image_path=tmp_path / "in.webp") as source:
        assert source.metadata.xmp == XMP


def test_photoshops_resolution_counts_if_there_is_no_other(
    tmp_path: Path, opened: Opener, context: RecordingContext
) -> None:
    block = resource(0x03ED, struct.pack(">IHHIHH", 300 << 16, 1, 1, 300 << 16, 1, 1))
    path = jpeg(tmp_path / "in.jpg", (0xED, b"Photoshop 3.0\0" + block))
    with opened(image_path=path) as source:
        assert source.metadata.dpi == 300
    assert context.warnings == []


def test_resources_that_photoshop_always_writes_cause_no_warning() -> None:
    grid = struct.pack(">IIII", 1, 576, 576, 0)
    always = resource(0x0425, bytes(16)) + resource(0x0408, grid) + resource(0x2710, bytes(10))
    assert not is_more(PHOTOSHOP + always)
    assert is_more(PHOTOSHOP + always + resource(0x0408, grid[:12] + b"\0\0\0\1"))


SEGMENTS = [
    ((0xE2, b"MPF\0" + bytes(40)), "further pictures"),
    ((0xE2, b"urn:iso:std:iso:ts:21496:-1\0"), "gain map"),
    ((0xE1, b"http://ns.adobe.com/xap/1.0/\0<hdrgm='http://ns.adobe.com/hdr-gain-map/'>"), "gain"),
    ((0xE1, b"http://ns.adobe.com/xap/1.0/\0<a GCamera:MotionPhoto='1'/>"), "motion photo"),
    ((0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(40)), "extended XMP"),
    ((0xEB, b"JP\0\1" + bytes(40)), "C2PA"),
    ((0xE3, b"Stim\0" + bytes(40)), "Stim (segment APP3)"),
    ((0xED, b"Photoshop 3.0\0" + resource(2000, b"a path")), "Photoshop"),
]


@pytest.mark.parametrize(("segment", "named"), SEGMENTS)
def test_contents_of_a_jpeg_that_nothing_can_keep_are_named(
    tmp_path: Path,
    opened: Opener,
    context: RecordingContext,
    segment: tuple[int, bytes],
    named: str,
) -> None:
    with opened(image_path=jpeg(tmp_path / "in.jpg", segment)):
        pass
    (warning,) = context.warnings
    assert named in warning


@pytest.mark.parametrize(
    ("appended", "named"),
    [
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", ["further pictures"]),
        (bytes(100) + b"\xff\xd8\xff\xe1", ["further pictures"]),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", ["motion photo"]),
        (b"\0\0\x30\x0a\x10\0\0\0MotionPhoto_Data\0\0\0\x18ftypmp42", ["motion photo"]),
        (bytes(100), []),
        (b"\r\n", []),
    ],
)
def test_what_is_appended_to_a_jpeg_is_named(
    tmp_path: Path, opened: Opener, context: RecordingContext, appended: bytes, named: list[str]
) -> None:
    path = tmp_path / "in.jpg"
    Image.fromarray(PIXELS).save(path)
    path.write_bytes(path.read_bytes() + appended)
    with opened(image_path=path):
        pass
    assert [what in warning for what, warning in zip(named, context.warnings, strict=True)] == [
        True for _ in named
    ]


@pytest.mark.parametrize(
    ("tag", "named"),
    [(37724, "layers"), (33550, "GeoTIFF"), (34377, "Photoshop"), (65100, "65100")],
)
def test_contents_of_a_tiff_that_nothing_can_keep_are_named(
    tmp_path: Path, opened: Opener, context: RecordingContext, tag: int, named: str
) -> None:
    values: Any = (1.0, 1.0, 0.0) if tag == 33550 else resource(2000, b"a path")
    Image.fromarray(PIXELS).save(tmp_path / "in.tif", tiffinfo={tag: values})
    with opened(image_path=tmp_path / "in.tif"):
        pass
    (warning,) = context.warnings
    assert named in warning


@pytest.mark.parametrize(
    ("description", "is_kept", "is_named"),
    [
        ("ImageJ=1.53t\nimages=3\nslices=3\n", False, True),
        ('<?xml version="1.0"?><!-- Warning: ... --><OME xmlns="...">', False, True),
        ('{"shape": [2, 37, 53, 3]}', False, False),  # tifffile's, which has nothing else
        ("Seen with ImageJ=1.53t", True, False),
    ],
)
def test_a_tiffs_description_of_its_layout_is_left_out(
    tmp_path: Path,
    upscale: Upscale,
    context: RecordingContext,
    description: str,
    is_kept: bool,
    is_named: bool,
) -> None:
    info = {270: description, 315: "Ada"}
    Image.fromarray(PIXELS).save(tmp_path / "in.tif", tiffinfo=info)
    path = upscale(image_path=str(tmp_path / "in.tif"), output_path=str(tmp_path / "out.tif"))
    with Image.open(path) as picture:
        kept = dict(picture.getexif())
    assert (kept.get(270), kept[315]) == (description if is_kept else None, "Ada")
    told = "the input has a description of its layout (ImageJ, OME): left out"
    assert context.warnings == ([told] if is_named else [])


def test_an_avifs_other_pictures_are_named(
    tmp_path: Path, opened: Opener, context: RecordingContext
) -> None:
    path = tmp_path / "in.avif"
    Image.fromarray(np.dstack([PIXELS, PIXELS[:, :, :1]])).save(path)
    with opened(image_path=path):
        pass
    assert context.warnings == []
    path.write_bytes(path.read_bytes().replace(b"auxiliary:alpha", b"auxiliary:depth"))
    with opened(image_path=path):
        pass
    (warning,) = context.warnings
    assert "depth map" in warning


@pytest.mark.parametrize(
    ("name", "named"), [(b"caBX", "C2PA"), (b"sCAL", "sCAL"), (b"prVt", "prVt")]
)
def test_chunks_of_a_png_that_nothing_can_keep_are_named(
    tmp_path: Path, opened: Opener, context: RecordingContext, name: bytes, named: str
) -> None:
    with opened(image_path=png(tmp_path / "in.png", chunk(name, b"jumb"))):
        pass
    (warning,) = context.warnings
    assert named in warning


@pytest.mark.parametrize(("name", "named"), [(b"C2PA", "C2PA"), (b"PRIV", "PRIV")])
def test_chunks_of_a_webp_that_nothing_can_keep_are_named(
    tmp_path: Path, opened: Opener, context: RecordingContext, name: bytes, named: str
) -> None:
    path = tmp_path / "in.webp"
    Image.fromarray(PIXELS).save(path, xmp=XMP)
    body = path.read_bytes()[8:] + name + struct.pack("<I", 4) + b"data"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    with opened(image_path=path):
        pass
    (warning,) = context.warnings
    assert named in warning


def test_a_comment_behind_fill_bytes_is_found(tmp_path: Path, opened: Opener) -> None:
    path = jpeg(tmp_path / "in.jpg", comment=b"by the sea")
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xff\xff" + data[2:])
    with opened(image_path=path) as source:
        assert source.metadata.texts == (("Comment", "by the sea"),)


def test_a_text_that_unpacks_without_end_is_left_out(
    tmp_path: Path, opened: Opener, context: RecordingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pngtext, "_LONGEST_BYTES", 2**20)
    bomb = text("parameters", bytes(2 * 2**20), "zTXt")
    with opened(image_path=png(tmp_path / "in.png", bomb * 20)) as source:
        assert source.metadata.texts == ()
    (warning,) = context.warnings
    assert "20 of the input's texts" in warning


@given(st.binary(max_size=300))
def test_any_bytes_are_read_in_steps_that_follow_their_length(data: bytes) -> None:
    warnings: list[str] = []
    readers = [
        CountedReader(start + data) for start in (b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8")
    ]
    png_texts(readers[0], warnings.append)
    gif_texts(readers[1])
    warn_of_left_out("jpeg", readers[2], data, warnings.append)
    assert all(reader.calls <= 2 * len(data) + 50 for reader in readers)
    iptc(data)
    is_more(data)
    assert len(warnings) <= len(data) + 3
