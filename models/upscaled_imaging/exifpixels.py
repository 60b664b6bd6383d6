"""Numbers of pixels in an EXIF block, scaled in place.

Source: Exif 2.32 (CIPA DC-008-2019), 4.6.5 (SubjectArea, SubjectLocation, FocalPlaneXResolution)
and 4.6.8 (RelatedImageWidth).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress

from upscaled_imaging.exif import EXIF_POINTER, INTEROPERABILITY, block_reader, packed_entry
from upscaled_imaging.tags import Entry, Reader, TagType
from upscaled_protocol.messages import Size

_PLACES = {37396: "SubjectArea", 41492: "SubjectLocation"}
_FOCAL_PLANE_RESOLUTIONS = (41486, 41487)  # across, down: in pixels per inch of the sensor
_RELATED_SIZE = (4097, 4098)
_MOST_NUMBERS = 4
_SHORTS, _LONGS = 2**16, 2**32


def scaled_exif(exif: bytes, before: Size, after: Size) -> bytes:
    """The block of a picture that was scaled as a whole; a broken block is not changed."""
    block = bytearray(exif)
    scales = (after.width / before.width, after.height / before.height)
    with suppress(ValueError):
        reader = block_reader(block)
        for entry in _entries(reader):
            with suppress(ValueError, ZeroDivisionError):
                if entry.number in _PLACES:
                    _scale_place(block, reader, entry, scales)
                elif entry.number in _FOCAL_PLANE_RESOLUTIONS:
                    axis = _FOCAL_PLANE_RESOLUTIONS.index(entry.number)
                    _scale_fraction(block, reader, entry, scales[axis])
                elif entry.number == INTEROPERABILITY:
                    _set_related_size(block, reader, entry, before, after)
    return bytes(block)


def places_in_exif(exif: bytes) -> list[str]:
    """The names of the tags that hold positions in the picture."""
    try:
        numbers = {entry.number for entry in _entries(block_reader(exif))}
    except ValueError:
        return []
    return [name for number, name in _PLACES.items() if number in numbers]


def _entries(reader: Reader) -> Iterator[Entry]:
    """The entries of the EXIF directory, which describes how the picture was taken."""
    for pointer in reader.entries(reader.first)[0]:
        if pointer.number == EXIF_POINTER:
            yield from reader.entries(reader.integer(pointer))[0]


def _scale_place(
    block: bytearray, reader: Reader, entry: Entry, scales: tuple[float, float]
) -> None:
    numbers = reader.integers(entry, _MOST_NUMBERS)
    values = [min(round(one * scales[index % 2]), _LONGS - 1) for index, one in enumerate(numbers)]
    if len(values) < 2 or entry.type not in (TagType.SHORT, TagType.LONG):
        return
    if entry.type == TagType.SHORT and max(values) < _SHORTS:
        struct.pack_into(f"{reader.order}{len(values)}H", block, entry.place, *values)
        return
    # Numbers above 65,535 do not fit into the entry: they are added at the end of the block.
    block += bytes(len(block) % 2)
    moved = packed_entry(reader.order, entry.number, TagType.LONG, len(block), count=len(values))
    block[entry.at : entry.at + len(moved)] = moved
    block += struct.pack(f"{reader.order}{len(values)}I", *values)


def _scale_fraction(block: bytearray, reader: Reader, entry: Entry, scale: float) -> None:
    if entry.type != TagType.RATIONAL:
        return
    value = reader.fraction(entry) * scale
    divisor = 10_000 if value * 10_000 < _LONGS else 1
    if round(value * divisor) < _LONGS:
        packed = struct.pack(f"{reader.order}II", round(value * divisor), divisor)
        block[entry.place : entry.place + len(packed)] = packed


def _set_related_size(
    block: bytearray, reader: Reader, pointer: Entry, before: Size, after: Size
) -> None:
    """Scale the picture's own size, but not that of another file, such as a DCF thumbnail."""
    related = {entry.number: entry for entry in reader.entries(reader.integer(pointer))[0]}
    found = [related[number] for number in _RELATED_SIZE if number in related]
    if [reader.integer(entry) for entry in found] != [before.width, before.height]:
        return
    for entry, value in zip(found, (after.width, after.height), strict=True):
        packed = packed_entry(reader.order, entry.number, TagType.LONG, value)
        block[entry.at : entry.at + len(packed)] = packed
