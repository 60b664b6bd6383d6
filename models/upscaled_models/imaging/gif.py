"""The part of a GIF's canvas that its picture does not cover: it is transparent.

libvips paints it black if the picture itself has no transparent colour.
Source: GIF89a (CompuServe, 1990), sections 18, 20 and 23.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import pyvips

from upscaled_models.imaging.chunks import ReadAt

_HEADER_BYTES = 13
_EXTENSION, _IMAGE = b"\x21", b"\x2c"
_DESCRIPTOR_BYTES = 10
_OPAQUE = 255
# Sub-blocks have up to 255 bytes: room for 16 MiB of comments, XMP and profiles.
_MOST_BLOCKS = 65_536


class Frame(NamedTuple):
    """Where a picture lies on the canvas, in pixels."""

    left: int
    top: int
    width: int
    height: int


def with_open_canvas(image: pyvips.Image, read_at: ReadAt) -> pyvips.Image:
    """The canvas, as libvips gives it, with alpha if the picture does not cover all of it."""
    frame = first_frame(read_at)
    if frame is None or image.hasalpha():
        return image
    whole = Frame(0, 0, image.width, image.height)
    if frame == whole:
        return image
    inside = pyvips.Image.black(frame.width, frame.height).linear(0, _OPAQUE, uchar=True)
    return image.bandjoin(inside.embed(frame.left, frame.top, image.width, image.height))


def first_frame(read_at: ReadAt) -> Frame | None:
    """Where the first picture lies; None if none is found."""
    head = read_at(0, _HEADER_BYTES)
    if len(head) < _HEADER_BYTES:
        return None
    at = _HEADER_BYTES + _palette_bytes(head[10])
    is_inside = False  # an extension, whose sub-blocks end with an empty one
    for _ in range(_MOST_BLOCKS):
        block = read_at(at, 1 if is_inside else _DESCRIPTOR_BYTES)
        if not block:
            return None
        if is_inside:
            is_inside = block != b"\0"
            at += 1 + block[0]
        elif block[:1] == _EXTENSION:
            is_inside = True
            at += 2  # a label follows
        elif block[:1] == _IMAGE and len(block) == _DESCRIPTOR_BYTES:
            return Frame(*struct.unpack("<4H", block[1:9]))
        else:
            return None
    return None


def _palette_bytes(flags: int) -> int:
    return 3 * (2 << (flags & 7)) if flags & 0x80 else 0
