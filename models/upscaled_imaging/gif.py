"""The part of a GIF's canvas that its picture does not cover, which is transparent.

libvips makes it black if the picture itself has no transparent colour.
Source: GIF89a (CompuServe, 1990), sections 18 and 20.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import pyvips

from upscaled_imaging.chunks import GIF_IMAGE, ReadAt, gif_blocks

_OPAQUE = 255


class Frame(NamedTuple):
    """A picture's position and size on the canvas, in pixels."""

    left: int
    top: int
    width: int
    height: int


def with_open_canvas(image: pyvips.Image, read_at: ReadAt) -> pyvips.Image:
    """The canvas, with alpha if the picture does not cover all of it."""
    frame = first_frame(read_at)
    if frame is None or image.hasalpha():
        return image
    whole = Frame(0, 0, image.width, image.height)
    if frame == whole:
        return image
    inside = pyvips.Image.black(frame.width, frame.height).linear(0, _OPAQUE, uchar=True)
    return image.bandjoin(inside.embed(frame.left, frame.top, image.width, image.height))


def first_frame(read_at: ReadAt) -> Frame | None:
    """The frame of the first picture; None if there is none."""
    for block in gif_blocks(read_at):
        if block.kind == GIF_IMAGE:
            return Frame(*struct.unpack("<4H", read_at(block.start + 1, 8)))
    return None
