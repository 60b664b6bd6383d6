"""Photoshop's image resources: captions (IPTC), a resolution, and much that only Photoshop uses.

JPEG has them in APP13, TIFF in a tag, PNG in a text.
Source: Adobe Photoshop File Formats Specification (2019), Image Resources Section.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

IPTC = 0x0404
_RESOLUTION = 0x03ED
_GUIDES = 0x0408
# Resources that may be dropped silently: the captions' digest, thumbnails, settings for display and
# printing, and the states of layers (the layers themselves get a warning).
_TECHNICAL = frozenset(
    {0x03E9, 0x03F3, 0x03F5, 0x03F8, 0x0400, 0x0402, 0x0406, 0x0409, 0x040A, 0x040C, 0x040D}
    | {0x0411, 0x0414, 0x0415, 0x0416, 0x0419, 0x041A, 0x041C, 0x041D, 0x041E, 0x0421, 0x0425}
    | {0x0426, 0x0428, 0x042D, 0x0430, 0x043A, 0x043B, 0x2710}
)
# Copies of other blocks: the profile, EXIF twice, XMP.
_ELSEWHERE = frozenset({0x040F, 0x0422, 0x0423, 0x0424})
_SIGNATURE = b"8BIM"
_MOST = 10_000


class Resource(NamedTuple):
    """One resource: its number and its data."""

    number: int
    data: bytes


def resources(block: bytes) -> Iterator[Resource]:
    """The resources of a block, up to its end or to the first broken one."""
    at = 0
    for _ in range(_MOST):
        if block[at : at + 4] != _SIGNATURE or len(block) < at + 12:
            return
        (number,) = struct.unpack_from(">H", block, at + 4)
        named = 1 + block[at + 6]
        start = at + 6 + named + named % 2 + 4
        size = int.from_bytes(block[start - 4 : start])
        if len(block) < start + size:
            return
        yield Resource(number, block[start : start + size])
        at = start + size + size % 2


def resource(number: int, data: bytes) -> bytes:
    """A block of one resource."""
    return _SIGNATURE + struct.pack(">HHI", number, 0, len(data)) + data + bytes(len(data) % 2)


def iptc(block: bytes) -> bytes | None:
    """The captions of a block, as IPTC records. The block may itself consist of such records."""
    if block.startswith(b"\x1c"):
        return block
    return next((data for number, data in resources(block) if number == IPTC and data), None)


def resolution(block: bytes) -> tuple[float, float] | None:
    """Dots per inch across and down; None if the block has no resolution."""
    for number, data in resources(block):
        if number == _RESOLUTION and len(data) >= 16:
            across, down = struct.unpack_from(">I4xI", data)
            return across / 65536, down / 65536
    return None


def is_more(block: bytes) -> bool:
    """True if a block holds anything else of use, such as paths, guides or slices."""
    known = {IPTC, _RESOLUTION} | _TECHNICAL | _ELSEWHERE
    return any(
        # The grid is always present. The number of guides follows it.
        any(data[12:16]) if number == _GUIDES else number not in known
        for number, data in resources(block)
    )
