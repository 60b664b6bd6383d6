"""EXIF blocks, revised in place.

libexif, which libvips uses, rewrites the whole block and loses maker notes that it does not know
(all of a Canon SX60's, for example), because they hold offsets into the block. Here every byte
keeps its offset. Single numbers change, and a new main directory is added at the end.
Source: Exif 2.32 (CIPA DC-008-2019); TIFF 6.0 for the structure.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress

from upscaled_imaging.tags import Entry, Reader, Tag, TagType, header, pack

EXIF_POINTER, _GPS, INTEROPERABILITY = 34665, 34853, 40965
_POINTERS = frozenset({EXIF_POINTER, _GPS, INTEROPERABILITY})
# Tags of a TIFF's main directory that describe the picture, not how its pixels are stored: the
# document's name, title, make, model, page, software, date, artist, host, rating, copyright, and
# five of Windows.
DESCRIPTIVE = frozenset(
    {269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, *range(40091, 40096)}
)
DESCRIPTION = 270
# OME's begins with a comment.
LAYOUT_BYTES = 4096
_WIDTH, _HEIGHT, _ORIENTATION = 256, 257, 274
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_INDEX = 1  # of the interoperability directory
_PIXEL_X_DIMENSION, _PIXEL_Y_DIMENSION = 40962, 40963
# Offset and length of a thumbnail's bytes: as JPEG, and in strips.
_THUMBNAILS = ((513, 514), (273, 279))
_INCHES_PER_UNIT = {2: 1.0, 3: 1 / 2.54}
_INCH = 2
_ENTRY_BYTES = 12
_EMPTY = header(8, big=False) + pack([], 8)


def revised(
    exif: bytes | None, *, width: int, height: int, dpi: float | None = None
) -> bytes | None:
    """The block for the picture's new size: upright, without its thumbnail, with `dpi` dots.

    A block begins with its byte order. None makes a new one; a broken one gives None.
    """
    block = bytearray(_EMPTY if exif is None else exif)
    try:
        reader = block_reader(block)
        entries, thumbnail_at = reader.entries(reader.first)
    except ValueError:
        return None
    for entry in entries:
        if entry.number == EXIF_POINTER:
            with suppress(ValueError):
                _set_dimensions(block, reader, entry, width, height)
    order = reader.order
    table = {entry.number: bytes(block[entry.at : entry.at + _ENTRY_BYTES]) for entry in entries}
    if thumbnail_at:
        with suppress(ValueError):
            _erase_thumbnail(block, reader, thumbnail_at)
    for number, value in ((_WIDTH, width), (_HEIGHT, height)):
        if number in table:
            table[number] = packed_entry(order, number, TagType.LONG, value)
    if _ORIENTATION in table:
        table[_ORIENTATION] = packed_entry(order, _ORIENTATION, TagType.SHORT, 1)
    block += bytes(len(block) % 2)
    if dpi is not None:
        for number in (_X_RESOLUTION, _Y_RESOLUTION):
            table[number] = packed_entry(order, number, TagType.RATIONAL, len(block))
        table[_RESOLUTION_UNIT] = packed_entry(order, _RESOLUTION_UNIT, TagType.SHORT, _INCH)
        block += struct.pack(f"{order}II", round(dpi * 10_000), 10_000)
    struct.pack_into(f"{order}I", block, 4, len(block))
    block += struct.pack(f"{order}H", len(table))
    block += b"".join(table[number] for number in sorted(table)) + bytes(4)
    return bytes(block)


def orientation(exif: bytes) -> int:
    """The picture's orientation, 1 to 8; 1 (upright) if the block has none."""
    try:
        reader = block_reader(exif)
        tags = {entry.number: entry for entry in reader.entries(reader.first)[0]}
        value = reader.integer(tags[_ORIENTATION])
    except (ValueError, KeyError):
        return 1
    return value if 1 <= value <= 8 else 1


def is_adobe_rgb(exif: bytes) -> bool:
    """True if the block says that the colours are Adobe RGB, as cameras do without a profile
    (DCF 2.0, 5.4: InteroperabilityIndex R03)."""
    with suppress(ValueError):
        reader = block_reader(exif)
        at = reader.first
        for pointer in (EXIF_POINTER, INTEROPERABILITY):
            entries = {entry.number: entry for entry in reader.entries(at)[0]}
            if pointer not in entries:
                return False
            at = reader.integer(entries[pointer])
        index = next((one for one in reader.entries(at)[0] if one.number == _INDEX), None)
        return index is not None and exif[index.place : index.place + 3] == b"R03"
    return False


def resolution(exif: bytes) -> tuple[float, float] | None:
    """Dots per inch across and down; None if the block has no resolution."""
    return tiff_resolution(lambda at, count: exif[at : at + count])


def tiff_resolution(read_at: Callable[[int, int], bytes]) -> tuple[float, float] | None:
    """The same for a TIFF file."""
    try:
        reader = Reader(read_at)
        tags = {entry.number: entry for entry in reader.entries(reader.first)[0]}
        unit = reader.integer(tags[_RESOLUTION_UNIT]) if _RESOLUTION_UNIT in tags else _INCH
        inches = _INCHES_PER_UNIT[unit]
        across = reader.fraction(tags[_X_RESOLUTION]) / inches
        down = reader.fraction(tags.get(_Y_RESOLUTION, tags[_X_RESOLUTION])) / inches
    except (ValueError, KeyError, ZeroDivisionError):
        return None
    return (across, down) if across and down else None


def descriptive_tags(exif: bytes) -> list[Tag]:
    """The block as tags of a TIFF file; no tags if it is broken."""
    return _descriptive(lambda at, count: exif[at : at + count])


def from_texts(texts: dict[int, str]) -> bytes:
    """A block that holds only texts, each under its tag."""
    tags = [
        Tag(number, TagType.ASCII, text.replace("\0", " ").encode() + b"\0")
        for number, text in texts.items()
    ]
    return header(8, big=False) + pack(tags, 8)


def from_tiff(
    read_at: Callable[[int, int], bytes], check: Callable[[], None] = lambda: None
) -> bytes | None:
    """A block of a TIFF file's descriptive tags; None if it has none.

    Maker notes get another offset, so most readers cannot read those that hold offsets into the
    file. `check` is called while the file is read; an exception of it ends the reading.
    """
    tags = [
        tag
        for tag in _descriptive(read_at, check)
        if not (tag.number == DESCRIPTION and isinstance(tag.data, bytes) and is_layout(tag.data))
    ]
    return header(8, big=False) + pack(tags, 8) if tags else None


def is_layout(description: bytes) -> bool:
    """True if a TIFF's description is for programs, which find the pixels by it: ImageJ's, OME's
    and tifffile's. The output has another layout, so such a program would read it wrongly."""
    head = description[:LAYOUT_BYTES]
    return head.startswith((b"ImageJ=", b'{"shape":')) or b"<OME " in head


def _descriptive(
    read_at: Callable[[int, int], bytes], check: Callable[[], None] = lambda: None
) -> list[Tag]:
    try:
        reader = Reader(read_at, check)
        return reader.directory(reader.first, wanted=DESCRIPTIVE | _POINTERS, inside=_POINTERS)
    except ValueError:
        return []


def block_reader(block: bytes | bytearray) -> Reader:
    """A reader of a block's directories. Raises `ValueError` if it is not an EXIF block."""
    reader = Reader(lambda at, count: bytes(block[at : at + count]))
    if reader.big:
        raise ValueError("EXIF has no 64-bit form")
    return reader


def packed_entry(order: str, number: int, kind: TagType, value: int, *, count: int = 1) -> bytes:
    """An entry that holds one number, or the offset of `count` numbers."""
    code = "HHIHxx" if kind == TagType.SHORT else "HHII"
    return struct.pack(order + code, number, kind, count, value)


def _set_dimensions(
    block: bytearray, reader: Reader, pointer: Entry, width: int, height: int
) -> None:
    values = {_PIXEL_X_DIMENSION: width, _PIXEL_Y_DIMENSION: height}
    for entry in reader.entries(reader.integer(pointer))[0]:
        if entry.number in values:
            packed = packed_entry(reader.order, entry.number, TagType.LONG, values[entry.number])
            block[entry.at : entry.at + _ENTRY_BYTES] = packed


def _erase_thumbnail(block: bytearray, reader: Reader, at: int) -> None:
    # It shows an earlier state of the picture, perhaps a part that a person has cut off.
    tags = {entry.number: entry for entry in reader.entries(at)[0]}
    for offset, length in _THUMBNAILS:
        if offset not in tags or length not in tags:
            continue
        start, count = reader.integer(tags[offset]), reader.integer(tags[length])
        if start <= at:
            continue  # forged: cameras put the bytes behind the directory that points to them
        if start + count >= len(block):
            del block[start:]
        else:
            block[start : start + count] = bytes(count)
