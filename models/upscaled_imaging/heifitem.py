"""The items of a HEIF, such as an AVIF or a HEIC: its main picture, and what belongs to it.

Source: ISO/IEC 23008-12 (HEIF), 6.4 (pitm), 6.6 (dimg, auxl, cdsc) and 9.3 (iprp, ipma);
ISO/IEC 14496-12, 8.11 (iloc, iinf, iref); ISO/IEC 14496-15, 8.3.3 (hvcC); AV1 image file format,
2.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from upscaled_imaging.chunks import Chunk, ReadAt, boxes, boxes_at

HEIF_KINDS = ("avif", "heic")
_NCLX = struct.Struct(">4sHHHB")
_FULL_RANGE = 0x80
# Codec settings: the byte that holds the chroma format, its mask, and the value for monochrome.
_MONOCHROME = {b"av1C": (2, 0x10, 0x10), b"hvcC": (16, 0x03, 0)}
# A picture has about ten properties, and a file at most a few thousand tiles.
_LONGEST_TABLE_BYTES = 1024 * 1024
_NO_TURN = b"\0"


class Nclx(NamedTuple):
    """Code points of ITU-T H.273, and whether the values are of full range."""

    primaries: int
    curve: int
    matrix: int
    is_full: bool


class Reference(NamedTuple):
    """An item, and the items it refers to: its parts (dimg), its picture (auxl, cdsc, thmb), ..."""

    kind: bytes
    item: int
    others: tuple[int, ...]


def nclx(read_at: ReadAt) -> Nclx | None:
    """The main picture's colour tags; None if it has none."""
    for box in properties(read_at, _main(read_at)):
        data = read_at(box.start, _NCLX.size)
        if box.kind == b"colr" and data[:4] == b"nclx" and len(data) == _NCLX.size:
            _, primaries, curve, matrix, flags = _NCLX.unpack(data)
            return Nclx(primaries, curve, matrix, bool(flags & _FULL_RANGE))
    return None


def is_monochrome(read_at: ReadAt) -> bool:
    """True if the main picture is monochrome. If it has tiles, the first one is looked at."""
    item = _main(read_at)
    with suppress(ValueError):
        tiles = {
            reference.item: reference.others
            for reference in references(read_at)
            if reference.kind == b"dimg"
        }
        item = next(iter(tiles.get(item or 0, ())), item)
    for box in properties(read_at, item):
        if box.kind in _MONOCHROME:
            place, mask, value = _MONOCHROME[box.kind]
            byte = read_at(box.start + place, 1)
            return bool(byte) and byte[0] & mask == value
    return False


def is_turned(read_at: ReadAt) -> bool:
    """True if the main picture is stored turned, mirrored or with a margin to cut off.

    The decoder corrects that. EXIF's orientation is ignored then.
    """
    return any(
        box.kind in (b"imir", b"clap")
        or (box.kind == b"irot" and read_at(box.start, 1) != _NO_TURN)
        for box in properties(read_at, _main(read_at))
    )


def pixel_ratio(read_at: ReadAt) -> tuple[int, int] | None:
    """How many of the main picture's pixels lie across and down a square; None if unstated.

    Source: ISO/IEC 14496-12, 12.1.4 (pasp), which has the width and the height of a pixel.
    """
    for box in properties(read_at, _main(read_at)):
        if box.kind == b"pasp" and box.end - box.start >= 8:
            width, height = struct.unpack(">II", read_at(box.start, 8).ljust(8, b"\0"))
            return height, width
    return None


def properties(read_at: ReadAt, item: int | None) -> Iterator[Chunk]:
    """The boxes that describe an item; all boxes if the item is unknown."""
    numbers = _associations(read_at).get(item or 0)
    for number, box in enumerate(boxes_at(read_at, b"meta", b"iprp", b"ipco"), 1):
        if not numbers or number in numbers:
            yield box


def item_pixels(read_at: ReadAt) -> dict[int, int]:
    """The declared number of pixels of each picture."""
    sizes = {}
    for number, box in enumerate(boxes_at(read_at, b"meta", b"iprp", b"ipco"), 1):
        if box.kind == b"ispe":
            data = read_at(box.start + 4, 8)
            sizes[number] = int.from_bytes(data[:4]) * int.from_bytes(data[4:])
    return {
        item: max((sizes.get(number, 0) for number in numbers), default=0)
        for item, numbers in _associations(read_at).items()
    }


def main_item(read_at: ReadAt) -> int:
    """The number of the main picture's item. Raises `ValueError` if the file names none."""
    item = _main(read_at)
    if item is None:
        raise ValueError("it names no main picture")
    return item


def item_kinds(read_at: ReadAt) -> dict[int, bytes]:
    """The type of each item: hvc1, av01, grid, Exif, mime, ... Raises `ValueError` if broken."""
    table = next((box for box in boxes_at(read_at, b"meta") if box.kind == b"iinf"), None)
    if table is None:
        raise ValueError("it has no table of items")
    found = {}
    wide_count = _contents(read_at, table)[:1] > b"\0"
    for box in boxes(read_at, table.start + (8 if wide_count else 6), table.end):
        entry = _contents(read_at, box)
        wide = entry[:1] >= b"\3"
        number, at = (">I", 8) if wide else (">H", 6)
        (item,) = _unpacked(number, entry, 4)
        found[item] = entry[at + 2 : at + 6]
    return found


def item_bytes(read_at: ReadAt) -> dict[int, int]:
    """The length of each item. Raises `ValueError` if the table is broken."""
    table = next((box for box in boxes_at(read_at, b"meta") if box.kind == b"iloc"), None)
    if table is None:
        return {}
    data = _contents(read_at, table)
    version, sizes, more = _unpacked(">B3xBB", data, 0)
    offset_bytes, length_bytes, base_bytes = sizes >> 4, sizes & 15, more >> 4
    index_bytes = more & 15 if version else 0
    number, at = (">I", 6) if version > 1 else (">H", 6)
    (count,) = _unpacked(number, data, at)
    at += struct.calcsize(number)
    found = {}
    for _ in range(count):
        (item,) = _unpacked(number, data, at)
        at += struct.calcsize(number) + (2 if version else 0) + 2 + base_bytes
        (extents,) = _unpacked(">H", data, at)
        at += 2
        length = 0
        for _ in range(extents):
            at += index_bytes + offset_bytes
            length += int.from_bytes(data[at : at + length_bytes])
            at += length_bytes
        if at > len(data):
            raise ValueError("a table is cut off")
        found[item] = length
    return found


def references(read_at: ReadAt) -> list[Reference]:
    """The references between items. Raises `ValueError` if the table is broken."""
    table = next((box for box in boxes_at(read_at, b"meta") if box.kind == b"iref"), None)
    if table is None:
        return []
    data = _contents(read_at, table)
    number = "I" if data[:1] > b"\0" else "H"
    found, at = [], 4
    while at < len(data):
        length, kind, item = _unpacked(f">I4s{number}", data, at)
        here = at + 8 + struct.calcsize(number)
        (count,) = _unpacked(">H", data, here)
        found.append(Reference(kind, item, _unpacked(f">{count}{number}", data, here + 2)))
        at += max(length, 8)
    return found


def _contents(read_at: ReadAt, box: Chunk) -> bytes:
    size = box.end - box.start
    if size > _LONGEST_TABLE_BYTES:
        raise ValueError("a table is too long")
    return read_at(box.start, size)


def _unpacked(layout: str, data: bytes, at: int) -> tuple:  # type: ignore[type-arg]
    try:
        return struct.unpack_from(layout, data, at)
    except struct.error:
        raise ValueError("a table is cut off") from None


def _main(read_at: ReadAt) -> int | None:
    box = next((box for box in boxes_at(read_at, b"meta") if box.kind == b"pitm"), None)
    if box is None:
        return None
    wide_numbers = read_at(box.start, 1) > b"\0"
    return int.from_bytes(read_at(box.start + 4, 4 if wide_numbers else 2))


def _associations(read_at: ReadAt) -> dict[int, set[int]]:
    """The numbers of each item's properties, from 1, up to the first broken table."""
    found: dict[int, set[int]] = {}
    for box in boxes_at(read_at, b"meta", b"iprp"):
        if box.kind != b"ipma":
            continue
        data = read_at(box.start, min(box.end - box.start, _LONGEST_TABLE_BYTES))
        with suppress(struct.error, IndexError):
            item, size = (">I" if data[0] else ">H"), 2 if data[3] & 1 else 1
            (count,) = struct.unpack_from(">I", data, 4)
            at = 8
            for _ in range(count):
                (number,) = struct.unpack_from(item, data, at)
                at += struct.calcsize(item)
                places = range(at + 1, at + 1 + data[at] * size, size)
                found.setdefault(number, set()).update(
                    int.from_bytes(data[place : place + size]) & (0x7FFF if size == 2 else 0x7F)
                    for place in places
                )
                at = places.stop
    return found
