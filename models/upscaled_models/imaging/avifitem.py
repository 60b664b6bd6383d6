"""What an AVIF says of its main picture.

Source: ISO/IEC 23008-12 (HEIF), 6.4 (pitm) and 9.3 (iprp, ipma); AV1 image file format, 2.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from upscaled_models.imaging.chunks import Chunk, ReadAt, boxes_at

_NCLX = struct.Struct(">4sHHHB")
_FULL_RANGE = 0x80
_MONOCHROME = 0x10
# A picture has a handful of properties.
_LONGEST_TABLE_BYTES = 1024 * 1024


class Nclx(NamedTuple):
    """Code points of ITU-T H.273, and whether values take the whole range."""

    primaries: int
    curve: int
    matrix: int
    is_full: bool


def nclx(read_at: ReadAt) -> Nclx | None:
    """What the main picture's colours are, in numbers; None if the file does not tell."""
    for box in _properties(read_at):
        data = read_at(box.start, _NCLX.size)
        if box.kind == b"colr" and data[:4] == b"nclx" and len(data) == _NCLX.size:
            _, primaries, curve, matrix, flags = _NCLX.unpack(data)
            return Nclx(primaries, curve, matrix, bool(flags & _FULL_RANGE))
    return None


def is_monochrome(read_at: ReadAt) -> bool:
    """Whether the main picture has no colour."""
    for box in _properties(read_at):
        if box.kind == b"av1C":
            return bool(int.from_bytes(read_at(box.start + 2, 1)) & _MONOCHROME)
    return False


def _properties(read_at: ReadAt) -> Iterator[Chunk]:
    """The boxes that describe the main picture; all of them if the file does not tell which."""
    every = list(boxes_at(read_at, b"meta", b"iprp", b"ipco"))
    try:
        numbers = _associated(read_at)
    except (struct.error, IndexError):
        numbers = set()
    for number, box in enumerate(every, 1):
        if not numbers or number in numbers:
            yield box


def _associated(read_at: ReadAt) -> set[int]:
    """The numbers of the main picture's properties, from 1."""
    main = next((box for box in boxes_at(read_at, b"meta") if box.kind == b"pitm"), None)
    if main is None:
        return set()
    wide_numbers = read_at(main.start, 1) > b"\0"
    wanted = int.from_bytes(read_at(main.start + 4, 4 if wide_numbers else 2))
    for box in boxes_at(read_at, b"meta", b"iprp"):
        if box.kind != b"ipma":
            continue
        data = read_at(box.start, min(box.end - box.start, _LONGEST_TABLE_BYTES))
        item, wide = (">I" if data[0] else ">H"), data[3] & 1
        (count,) = struct.unpack_from(">I", data, 4)
        at = 8
        for _ in range(count):
            (number,) = struct.unpack_from(item, data, at)
            at += struct.calcsize(item)
            many = data[at]
            size = 2 if wide else 1
            places = range(at + 1, at + 1 + many * size, size)
            if number == wanted:
                return {
                    int.from_bytes(data[place : place + size]) & (0x7FFF if wide else 0x7F)
                    for place in places
                }
            at = places.stop
    return set()
