"""Two measures of what is drawn that is not there: lines beside edges, and wrong outermost pixels.

Both are in levels of 255, and 0 is right. An edge lies between two flat colours, so that a channel
of the result should never pass both of them. A field is of one colour, so that every pixel of the
result should have it. PSNR over photographs sees neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from upscaled_bench.evaluation.light import linear, stored

Pixels = NDArray[np.uint8]
Enlarge = Callable[[Pixels], Pixels]
Colour = tuple[int, int, int]

_WHITE = (255, 255, 255)
# As in logos, flags and charts: white or dark beside a saturated colour, and two of these.
PAIRS: dict[str, tuple[Colour, Colour]] = {
    "white/red": (_WHITE, (227, 6, 19)),
    "white/blue": (_WHITE, (0, 60, 160)),
    "white/green": (_WHITE, (0, 140, 60)),
    "white/orange": (_WHITE, (255, 130, 0)),
    "white/black": (_WHITE, (0, 0, 0)),
    "yellow/blue": ((255, 230, 0), (0, 40, 180)),
    "green/magenta": ((0, 160, 60), (200, 0, 140)),
    "red/black": ((227, 6, 19), (20, 20, 20)),
    "gray/gray": ((200, 200, 200), (60, 60, 60)),
}
FIELDS: dict[str, Colour] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "yellow": (255, 255, 0),
    "orange": (255, 130, 0),
    "white": _WHITE,
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
}
# The small pictures are drawn this many times larger and averaged down: anti-aliased edges.
_DRAWN = 8
_HEIGHT, _WIDTH = 48, 64
# Of a small picture's border, which is the other measure's.
_BORDER = 10
# Positions of the edge within a pixel, in eighths.
_PHASES = (0, 2, 4, 6)
_FIELD_SIDE = 32


@dataclass(frozen=True)
class Line:
    """The worst that a channel passes both colours of an edge, down and up."""

    name: str
    below: int
    above: int


@dataclass(frozen=True)
class Field:
    """The worst difference from a field's colour, in the outermost pixels and in all others."""

    name: str
    outermost: int
    inside: int


def score_lines(enlarge: Enlarge, scale: int) -> list[Line]:
    """One row for each of `PAIRS`, in their order; the worst of all positions and slopes."""
    rows = []
    border = _BORDER * scale
    for name, (first, second) in PAIRS.items():
        low, high = np.minimum(first, second), np.maximum(first, second)
        below = above = 0
        for small in draw_edges(first, second):
            large = enlarge(small).astype(int)[border:-border, border:-border]
            below = max(below, int((low - large).max()))
            above = max(above, int((large - high).max()))
        rows.append(Line(name, below, above))
    return rows


def score_fields(enlarge: Enlarge, scale: int) -> list[Field]:
    """One row for each of `FIELDS`, in their order. The outermost pixels are `scale` deep."""
    rows = []
    for name, colour in FIELDS.items():
        small = np.full((_FIELD_SIDE, _FIELD_SIDE, 3), colour, np.uint8)
        difference = np.abs(enlarge(small).astype(int) - colour).max(axis=2)
        inside = difference[scale:-scale, scale:-scale].copy()
        difference[scale:-scale, scale:-scale] = 0
        rows.append(Field(name, int(difference.max()), int(inside.max())))
    return rows


def draw_edges(first: Colour, second: Colour) -> Iterator[Pixels]:
    """The edge at each place, averaged as stored and in linear light."""
    colours = np.asarray([first, second], np.float64) / 255.0
    lights = linear(colours)
    for share in _shares():
        for averaged in (
            colours[0] + share * (colours[1] - colours[0]),
            stored(lights[0] + share * (lights[1] - lights[0])),
        ):
            yield np.round(averaged * 255.0).astype(np.uint8)


@cache
def _shares() -> list[NDArray[np.float64]]:
    """The second colour's share of each pixel, (H, W, 1): an edge at each phase, and a slant."""
    middle, bottom, right = _HEIGHT * _DRAWN // 2, _HEIGHT * _DRAWN, _WIDTH * _DRAWN
    outlines = [(middle + phase, middle + phase) for phase in _PHASES]
    outlines.append((middle + 58, middle - 62))
    shares = []
    for left_y, right_y in outlines:
        large = Image.new("L", (right, bottom), 0)
        corners = [(0, left_y), (right, right_y), (right, bottom), (0, bottom)]
        ImageDraw.Draw(large).polygon(corners, fill=1)
        blocks = np.asarray(large, np.float64).reshape(_HEIGHT, _DRAWN, _WIDTH, _DRAWN, 1)
        shares.append(np.asarray(blocks.mean(axis=(1, 3))))
    return shares
