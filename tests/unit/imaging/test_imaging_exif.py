"""EXIF blocks: which bytes change, which must not, and broken ones."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from upscaled_imaging.exif import descriptive_tags, from_tiff, resolution, revised
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.tags import Tag, long, pack, rational, short

MAKE, ORIENTATION, X_RESOLUTION, UNIT = 271, 274, 282, 296
PIXEL_WIDTH, PIXEL_HEIGHT, MAKER_NOTE, USER_COMMENT = 40962, 40963, 37500, 37510


def block(order: str, *, thumbnail: bool = True) -> bytes:
    """A camera's block: main and Exif directories, maker note, thumbnail at the end."""
    note = b"MAKER" + bytes(range(100))
    main_at = 8
    exif_at = main_at + 2 + 12 * 4 + 4
    note_at = exif_at + 2 + 12 * 3 + 4
    second_at = note_at + len(note) + 1
    picture_at = second_at + 2 + 12 * 2 + 4
    picture = b"\xff\xd8thumbnail\xff\xd9"

    def entry(number: int, kind: int, count: int, value: int | bytes) -> bytes:
        if isinstance(value, int):
            value = struct.pack(order + ("Hxx" if kind == 3 else "I"), value)
        return struct.pack(f"{order}HHI", number, kind, count) + value

    main = [
        entry(MAKE, 2, 4, b"Foo\0"),
        entry(ORIENTATION, 3, 1, 6),
        entry(UNIT, 3, 1, 2),
        entry(34665, 4, 1, exif_at),
    ]
    inner = [
        entry(MAKER_NOTE, 7, len(note), note_at),
        entry(PIXEL_WIDTH, 3, 1, 300),
        entry(PIXEL_HEIGHT, 4, 1, 200),
    ]
    second = [entry(513, 4, 1, picture_at), entry(514, 4, 1, len(picture))]
    return b"".join(
        [
            {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, main_at),
            struct.pack(f"{order}H", len(main)), *main,
            struct.pack(f"{order}I", second_at if thumbnail else 0),
            struct.pack(f"{order}H", len(inner)), *inner, bytes(4),
            note, b"\0",
            struct.pack(f"{order}H", len(second)), *second, bytes(4),
            picture,
        ]
    )  # fmt: skip


def by_pillow(exif: bytes) -> Image.Exif:
    read = Image.Exif()
    read.load(b"Exif\0\0" + exif)
    return read


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_block_follows_the_new_picture(order: str) -> None:
    found = revised(block(order), width=70_000, height=800, dpi=300)
    assert found is not None
    exif = by_pillow(found)
    assert exif[MAKE] == "Foo"
    assert exif[ORIENTATION] == 1
    assert (exif[X_RESOLUTION], exif[UNIT]) == (300, 2)
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    assert (inner[PIXEL_WIDTH], inner[PIXEL_HEIGHT]) == (70_000, 800)
    assert resolution(found) == (300, 300)


@pytest.mark.parametrize("order", ["<", ">"])
def test_maker_notes_stay_where_they_were(order: str) -> None:
    before = block(order)
    found = revised(before, width=10, height=10)
    assert found is not None
    assert found.index(b"MAKER") == before.index(b"MAKER")


def test_the_thumbnail_and_its_bytes_are_removed() -> None:
    found = revised(block("<"), width=10, height=10)
    assert found is not None
    assert b"thumbnail" not in found
    assert not by_pillow(found).get_ifd(ExifTags.IFD.IFD1)
    # Also if other data follows it.
    found = revised(block("<") + b"more", width=10, height=10)
    assert found is not None
    assert b"thumbnail" not in found
    assert b"more" in found


@pytest.mark.parametrize("start", [0, 8, 20])
def test_a_forged_thumbnail_does_not_damage_the_block(start: int) -> None:
    forged = bytearray(block("<"))
    at = forged.index(struct.pack("<HHI", 513, 4, 1)) + 8
    forged[at : at + 4] = struct.pack("<I", start)
    forged[at + 12 : at + 16] = struct.pack("<I", 10_000)
    found = revised(bytes(forged), width=10, height=10)
    assert found is not None
    assert by_pillow(found)[MAKE] == "Foo"


def test_a_block_gets_no_tags_that_it_did_not_have() -> None:
    found = revised(block("<"), width=10, height=10)
    assert found is not None
    assert X_RESOLUTION not in by_pillow(found)


@hypothesis_settings(max_examples=300)
@given(
    noise=st.binary(max_size=200),
    order=st.sampled_from(["<", ">", ""]),
    length=st.integers(0, 400),
    at=st.integers(0, 300),
)
def test_broken_blocks_never_raise(noise: bytes, order: str, length: int, at: int) -> None:
    whole = block(order) if order else b""
    exif = (whole[:at] + noise[:4] + whole[at + 4 :])[:length] if order else noise
    found = revised(exif, width=10, height=10, dpi=72)
    assert found is None or len(found) < len(exif) + 1000
    descriptive_tags(exif)
    resolution(exif)


def test_directories_that_point_to_themselves_end() -> None:
    looped = bytearray(block("<", thumbnail=False))
    at = looped.index(struct.pack("<HHI", 34665, 4, 1)) + 8
    looped[at : at + 4] = struct.pack("<I", 8)
    assert descriptive_tags(bytes(looped))


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_block_becomes_tiff_tags_and_a_block_again(order: str) -> None:
    tags = descriptive_tags(block(order))
    file = b"II*\0\x08\0\0\0" + pack(
        [*tags, long(256, 5), short(259, 1), rational(X_RESOLUTION, 72)], 8
    )
    again = from_tiff(lambda at, count: file[at : at + count])
    assert again is not None
    exif = by_pillow(again)
    assert exif[MAKE] == "Foo"
    assert set(exif) == {MAKE, 34665}  # without the tags for the storage of pixels
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    assert (inner[PIXEL_WIDTH], inner[PIXEL_HEIGHT]) == (300, 200)
    assert inner[MAKER_NOTE].startswith(b"MAKER")


@pytest.mark.parametrize(("order", "encoding"), [("<", "utf-16-le"), (">", "utf-16-be")])
def test_a_comment_of_two_bytes_per_letter_follows_the_byte_order(
    order: str, encoding: str
) -> None:
    exif = Image.Exif()
    exif.endian = order
    exif.get_ifd(ExifTags.IFD.Exif)[USER_COMMENT] = b"UNICODE\0" + "日本 ä".encode(encoding)
    file = b"II*\0\x08\0\0\0" + pack(descriptive_tags(exif.tobytes()[6:]), 8)
    again = from_tiff(lambda at, count: file[at : at + count])
    assert again is not None
    comment = by_pillow(again).get_ifd(ExifTags.IFD.Exif)[USER_COMMENT]
    assert comment == b"UNICODE\0" + "日本 ä".encode("utf-16-le")


def test_a_tiff_without_descriptive_tags_has_no_block() -> None:
    file = io.BytesIO()
    Image.new("L", (3, 3)).save(file, "TIFF")
    data = file.getvalue()
    assert from_tiff(lambda at, count: data[at : at + count]) is None


def test_packed_directories_are_sorted_and_even() -> None:
    packed = pack([Tag(700, 1, b"abcdefghi"), Tag(271, 2, b"odd\0five\0"), short(258, 8, 8, 8)], 8)
    numbers = [struct.unpack_from("<H", packed, 2 + 12 * index)[0] for index in range(3)]
    places = [struct.unpack_from("<I", packed, 10 + 12 * index)[0] for index in range(3)]
    assert numbers == [258, 271, 700]
    assert all(place % 2 == 0 for place in places)


def test_xmp_follows_the_new_picture() -> None:
    xmp = (
        b'<rdf:Description tiff:Orientation="6" tiff:XResolution="720000/10000">'
        b"<exif:PixelXDimension>300</exif:PixelXDimension><tiff:Orientation>8</tiff:Orientation>"
        b"<dc:title>tiff:Orientation</dc:title></rdf:Description>"
    )
    found = Metadata(xmp=xmp).resized(1200, 800, 150).xmp
    assert found == (
        b'<rdf:Description tiff:Orientation="1" tiff:XResolution="1500000/10000">'
        b"<exif:PixelXDimension>1200</exif:PixelXDimension><tiff:Orientation>1</tiff:Orientation>"
        b"<dc:title>tiff:Orientation</dc:title></rdf:Description>"
    )


def test_thumbnails_in_xmp_are_removed() -> None:
    around = (b"<rdf:Description><dc:title>x</dc:title>", b"</rdf:Description>")
    thumbnails = (
        b"<xmp:Thumbnails><rdf:Alt>\n<xmpGImg:image>/9j/</xmpGImg:image></rdf:Alt></xmp:Thumbnails>"
    )
    revised_xmp = Metadata(xmp=thumbnails.join(around)).resized(10, 10, None).xmp
    assert revised_xmp == b"".join(around)
