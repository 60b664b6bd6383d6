"""The EXIF block of an AVIF, byte for byte.

libvips writes the block through libexif, which rewrites it (see exif.py): it loses maker notes and
tags that it does not know, and all of a block of more than 64 KiB. So libvips writes a small block,
and the real one is added behind the picture.
Source: ISO/IEC 14496-12, 8.11.3 (iloc); ISO/IEC 23008-12, annex A.2.1 (Exif).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from upscaled_imaging.chunks import boxes_at
from upscaled_imaging.exif import revised
from upscaled_imaging.heifitem import item_kinds

# What stands in the file until `with_exif` has replaced it.
STAND_IN = b"Exif\0\0" + (revised(None, width=0, height=0, dpi=72) or b"")
# The number of bytes between this number and the block's byte order.
_HEAD = struct.pack(">I", 6) + b"Exif\0\0"


class _Field(NamedTuple):
    """A number in the file: its offset, and its width in bytes."""

    at: int
    width: int


class _Location(NamedTuple):
    """The fields by which the only piece of an item is found: its offset is base + offset."""

    base: _Field
    offset: _Field
    length: _Field


def with_exif(avif: bytes, exif: bytes) -> bytearray:
    """The file with this block in place of the one that it has. Raises `ValueError` if it has
    none."""
    location = _location(avif)
    payload = _HEAD + exif
    changed = bytearray(avif)
    places = ((location.base, 0), (location.offset, len(avif) + 8), (location.length, len(payload)))
    for field, value in places:
        changed[field.at : field.at + field.width] = value.to_bytes(field.width)
    changed += struct.pack(">I4s", 8 + len(payload), b"mdat") + payload
    return changed


def _location(avif: bytes) -> _Location:
    def read_at(at: int, count: int) -> bytes:
        return avif[at : at + count]

    wanted = next((item for item, kind in item_kinds(read_at).items() if kind == b"Exif"), None)
    table = next((box for box in boxes_at(read_at, b"meta") if box.kind == b"iloc"), None)
    if wanted is None or table is None:
        raise ValueError("the AVIF has no EXIF")
    version, sizes, more = avif[table.start], avif[table.start + 4], avif[table.start + 5]
    offset_bytes, length_bytes, base_bytes = sizes >> 4, sizes & 15, more >> 4
    index_bytes = more & 15 if version else 0
    number_bytes = 4 if version > 1 else 2
    at = table.start + 6 + number_bytes
    while at < table.end:
        item = int.from_bytes(read_at(at, number_bytes))
        # Behind the number: the method of construction, and the number of a file.
        base = _Field(at + number_bytes + (2 if version else 0) + 2, base_bytes)
        pieces = int.from_bytes(read_at(base.at + base_bytes, 2))
        offset = _Field(base.at + base_bytes + 2 + index_bytes, offset_bytes)
        if item == wanted and pieces == 1:
            return _Location(base, offset, _Field(offset.at + offset_bytes, length_bytes))
        at = base.at + base_bytes + 2 + pieces * (index_bytes + offset_bytes + length_bytes)
    raise ValueError("the AVIF's EXIF is not in one piece")
