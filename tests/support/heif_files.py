"""HEIF files by hand: items with their properties, and how they belong together.

Source: ISO/IEC 23008-12 (HEIF); ISO/IEC 14496-12 (boxes).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from upscaled_imaging.chunks import boxes, boxes_at

_ESSENTIAL = 0x8000


class Item(NamedTuple):
    """kind: hvc1, grid, Exif, ... properties: whole boxes."""

    kind: bytes
    data: bytes = b""
    properties: tuple[bytes, ...] = ()


def box(kind: bytes, *contents: bytes) -> bytes:
    data = b"".join(contents)
    return struct.pack(">I4s", 8 + len(data), kind) + data


def full_box(kind: bytes, version: int, *contents: bytes) -> bytes:
    return box(kind, bytes([version, 0, 0, 0]), *contents)


def size_box(width: int, height: int) -> bytes:
    return full_box(b"ispe", 0, struct.pack(">II", width, height))


def auxiliary_box(urn: str) -> bytes:
    return full_box(b"auxC", 0, urn.encode() + b"\0")


def coded(file: bytes) -> Item:
    """The one coded picture of a file that an encoder has made."""

    def read_at(at: int, count: int) -> bytes:
        return file[at : at + count]

    properties = tuple(
        box(found.kind, file[found.start : found.end])
        for found in boxes_at(read_at, b"meta", b"iprp", b"ipco")
    )
    (data,) = (found for found in boxes(read_at) if found.kind == b"mdat")
    return Item(b"hvc1", file[data.start : data.end], properties)


def heif(
    items: Sequence[Item],
    references: Sequence[tuple[bytes, int, Sequence[int]]] = (),
    main: int = 1,
    brand: bytes = b"heic",
) -> bytes:
    """A file of `items`, which are numbered from 1."""
    entries = [
        full_box(b"infe", 2, struct.pack(">HH4s", number, 0, item.kind), b"\0")
        for number, item in enumerate(items, 1)
    ]
    properties = [one for item in items for one in item.properties]
    associated, next_property = b"", 1
    for number, item in enumerate(items, 1):
        numbers = range(next_property, next_property + len(item.properties))
        next_property = numbers.stop
        associated += struct.pack(
            f">HB{len(numbers)}H", number, len(numbers), *(one | _ESSENTIAL for one in numbers)
        )
    links = [
        box(kind, struct.pack(f">HH{len(others)}H", item, len(others), *others))
        for kind, item, others in references
    ]

    def meta(at: int) -> bytes:
        located = b""
        for number, item in enumerate(items, 1):
            located += struct.pack(">HHHII", number, 0, 1, at, len(item.data))
            at += len(item.data)
        return full_box(
            b"meta",
            0,
            full_box(b"hdlr", 0, struct.pack(">I4s12xB", 0, b"pict", 0)),
            full_box(b"pitm", 0, struct.pack(">H", main)),
            full_box(b"iloc", 0, struct.pack(">BBH", 0x44, 0, len(items)), located),
            full_box(b"iinf", 0, struct.pack(">H", len(items)), *entries),
            full_box(b"iref", 0, *links) if links else b"",
            box(
                b"iprp",
                box(b"ipco", *properties),
                box(
                    b"ipma",
                    bytes([0, 0, 0, 1]),  # 15 bits per number
                    struct.pack(">I", len(items)),
                    associated,
                ),
            ),
        )

    start = box(b"ftyp", brand, bytes(4), brand, b"mif1")
    pixels_at = len(start) + len(meta(0)) + 8
    return start + meta(pixels_at) + box(b"mdat", *(item.data for item in items))
