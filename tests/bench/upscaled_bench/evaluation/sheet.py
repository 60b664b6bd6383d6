"""Crops side by side, for the eye: a row per picture, a column per enlarger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from upscaled_bench.evaluation.edges import PAIRS, draw_edges
from upscaled_bench.evaluation.enlargers import Enlarger
from upscaled_bench.evaluation.trials import CONDITIONS, Picture

Pixels = NDArray[np.uint8]

_SIDE = 192
"""Pixels of a crop, shown one to one: a browser that scales the sheet would add its own blur."""
_GAP, _HEADING = 6, 18


def draw_sheet(enlargers: Sequence[Enlarger], pictures: list[Picture]) -> Image.Image:
    """The busiest crop of every picture, of some of them damaged, and an edge of red and white."""
    scale = enlargers[0].scale
    rows = list(_rows(pictures, scale))
    width = (len(enlargers) + 1) * (_SIDE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, len(rows) * (_SIDE + _GAP + _HEADING)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for index, (title, truth, small) in enumerate(rows):
        top = index * (_SIDE + _GAP + _HEADING)
        y, x = _busiest(truth, scale)
        shown = {title: truth} | {one.name: one.enlarge(small) for one in enlargers}
        for column, (name, pixels) in enumerate(shown.items()):
            left = _GAP + column * (_SIDE + _GAP)
            pen.text((left, top + 1), name, fill="black", font=font)
            crop = Image.fromarray(np.ascontiguousarray(pixels[y : y + _SIDE, x : x + _SIDE]))
            sheet.paste(crop, (left, top + _HEADING))
    return sheet


def _rows(pictures: list[Picture], scale: int) -> Iterator[tuple[str, Pixels, Pixels]]:
    """Title, truth and what is enlarged."""
    clean = CONDITIONS["clean"]
    # Other reductions look hardly different.
    conditions = [name for name, made in CONDITIONS.items() if made.reduce is clean.reduce]
    for index, picture in enumerate(pictures):
        for condition in conditions:
            # Damage looks alike on every photograph; on text it is another matter.
            if condition == "clean" or index == 0 or picture.kind == "text":
                title = f"{picture.name}, {condition}"
                yield title, picture.truth(scale), picture.reduced(scale, condition)
    small = list(draw_edges(*PAIRS["white/red"]))[-1]  # the slanted one
    yield "white/red, as given", small.repeat(scale, axis=0).repeat(scale, axis=1), small


def _busiest(pixels: Pixels, scale: int) -> tuple[int, int]:
    """Top and left of the crop with most contrast between neighbours, or of the middle."""
    height, width = pixels.shape[:2]
    green = pixels[..., 1].astype(np.float64)
    change = np.abs(np.diff(green, axis=0))[:, 1:] + np.abs(np.diff(green, axis=1))[1:]
    total = np.pad(change.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    best, place = -1.0, (0, 0)
    for y in range(0, max(height - _SIDE, 1), 8 * scale):
        for x in range(0, max(width - _SIDE, 1), 8 * scale):
            bottom, right = min(y + _SIDE, height) - 1, min(x + _SIDE, width) - 1
            sum_ = total[bottom, right] - total[y, right] - total[bottom, x] + total[y, x]
            if sum_ > best:
                best, place = float(sum_), (y, x)
    return place
