"""Graphics: logos, flags, pages of text, line art, charts and pixel art, in flat colours.

A camera never sees what these pictures are made of: fields of one colour, often pure or saturated,
which meet at an edge of a single pixel, and black and white that are exactly 0 and 255. They are
drawn several times larger and averaged down, as programs that draw do: mostly as stored, sometimes
in linear light.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.camera import encode_srgb
from training.shapes import random_words

Colour = tuple[int, int, int]

GRAPHICS_RECIPE = 1
"""Raised with every change of what this module draws, so that an old bank is not taken for new."""

_OVERSAMPLING = 4
"""Drawn pixels per pixel of the picture, to each side."""

_WHITE: Colour = (255, 255, 255)
_BLACK: Colour = (0, 0, 0)


def make_graphic(seed: int, index: int, side: int) -> NDArray[np.uint8]:
    """Graphic number `index` of the endless series that `seed` names: (side, side, 3), uint8."""
    rng = np.random.default_rng([seed, 2, index])
    sheet = _Sheet(rng, side * _OVERSAMPLING)
    draw = _KINDS[int(rng.choice(len(_KINDS), p=_SHARES))]
    draw(rng, sheet)
    if rng.random() < 0.7:
        return np.asarray(sheet.image.reduce(_OVERSAMPLING))
    return _averaged_as_light(sheet.image, side)


def make_field(seed: int, index: int, side: int) -> NDArray[np.uint8]:
    """Field number `index` of one colour alone: (side, side, 3), uint8."""
    colour = _colour(np.random.default_rng([seed, 3, index]))
    return np.full((side, side, 3), colour, np.uint8)


class _Sheet:
    """A picture to draw on, with a few colours that all its shapes share."""

    def __init__(self, rng: np.random.Generator, side: int) -> None:
        self.side = side
        self.palette = [_colour(rng) for _ in range(int(rng.integers(3, 9)))]
        self.image = Image.new("RGB", (side, side), _background(rng, self.palette))
        self.pen = ImageDraw.Draw(self.image)

    def colour(self, rng: np.random.Generator) -> Colour:
        return self.palette[int(rng.integers(len(self.palette)))]

    def place(self, rng: np.random.Generator) -> tuple[float, float]:
        x, y = rng.uniform(-0.05, 1.05, 2) * self.side
        return float(x), float(y)

    def length(self, rng: np.random.Generator, shortest: float, longest: float) -> float:
        """In pixels of the finished picture, every size as likely as twice that size."""
        return float(np.exp(rng.uniform(np.log(shortest), np.log(longest)))) * _OVERSAMPLING


def _colour(rng: np.random.Generator) -> Colour:
    """Pure, saturated, black, white, gray or pale."""
    kind = rng.choice(
        ["pure", "saturated", "black", "white", "gray", "pale"],
        p=[0.2, 0.35, 0.12, 0.15, 0.08, 0.1],
    )
    if kind == "pure":
        corner = int(rng.integers(1, 7))
        return (255 * (corner & 1), 255 * (corner >> 1 & 1), 255 * (corner >> 2 & 1))
    if kind == "black":
        level = int(rng.integers(48)) if rng.random() < 0.33 else 0
        return (level, level, level)
    if kind == "white":
        level = int(rng.integers(232, 256)) if rng.random() < 0.33 else 255
        return (level, level, level)
    if kind == "gray":
        level = int(rng.integers(256))
        return (level, level, level)
    hue = rng.random()
    if kind == "saturated":
        rgb = colorsys.hsv_to_rgb(hue, rng.uniform(0.75, 1.0), rng.uniform(0.3, 1.0))
    else:
        rgb = colorsys.hsv_to_rgb(hue, rng.uniform(0.05, 0.5), rng.uniform(0.6, 1.0))
    red, green, blue = (round(255 * part) for part in rgb)
    return (red, green, blue)


def _background(rng: np.random.Generator, palette: list[Colour]) -> Colour:
    chance = rng.random()
    if chance < 0.4:
        return _WHITE
    return _BLACK if chance < 0.5 else palette[0]


def _draw_flag(rng: np.random.Generator, sheet: _Sheet) -> None:
    """Large fields in bands or wedges, and a few shapes on them."""
    angle = float(rng.choice([0.0, np.pi / 2, rng.uniform(0.0, np.pi)]))
    across = np.array([np.cos(angle), np.sin(angle)])
    along = np.array([-across[1], across[0]]) * 2 * sheet.side
    middle = np.array([sheet.side / 2, sheet.side / 2])
    for cut in np.sort(rng.uniform(-0.7, 0.7, int(rng.integers(1, 9)))):
        start = middle + across * cut * sheet.side
        corners = [start - along, start + along, start + along + 2 * across * sheet.side]
        corners.append(start - along + 2 * across * sheet.side)
        sheet.pen.polygon([(float(x), float(y)) for x, y in corners], fill=sheet.colour(rng))
    for _ in range(int(rng.integers(0, 30))):
        _draw_shape(rng, sheet, sheet.length(rng, 10, 200))


def _draw_logos(rng: np.random.Generator, sheet: _Sheet) -> None:
    """Shapes inside shapes, and lettering."""
    for _ in range(int(rng.integers(15, 120))):
        size = sheet.length(rng, 6, 160)
        x, y = _draw_shape(rng, sheet, size)
        for _ in range(int(rng.integers(0, 4))):
            size *= rng.uniform(0.4, 0.85)
            _draw_shape(rng, sheet, size, (x, y))
    for _ in range(int(rng.integers(4, 30))):
        _letter(rng, sheet, sheet.length(rng, 10, 150))


def _draw_shape(
    rng: np.random.Generator,
    sheet: _Sheet,
    size: float,
    place: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """Draw an ellipse, ring, box, star or sector about `place`; returns that place."""
    x, y = place or sheet.place(rng)
    width, height = size * rng.uniform(0.4, 1.0), size * rng.uniform(0.4, 1.0)
    box = (x - width, y - height, x + width, y + height)
    fill = sheet.colour(rng)
    line = max(1, round(sheet.length(rng, 0.7, 12)))
    kind = rng.choice(["ellipse", "ring", "box", "frame", "round", "star", "sector"])
    if kind == "ellipse":
        sheet.pen.ellipse(box, fill=fill)
    elif kind == "ring":
        sheet.pen.ellipse(box, outline=fill, width=line)
    elif kind == "box":
        sheet.pen.rectangle(box, fill=fill)
    elif kind == "frame":
        sheet.pen.rectangle(box, outline=fill, width=line)
    elif kind == "round":
        radius = min(width, height) * rng.uniform(0.1, 1.0)
        sheet.pen.rounded_rectangle(box, radius, fill=fill)
    elif kind == "sector":
        start = rng.uniform(0, 360)
        sheet.pen.pieslice(box, start, start + rng.uniform(20, 300), fill=fill)
    else:
        points = int(rng.integers(3, 10))
        around = np.linspace(0, 2 * np.pi, 2 * points, endpoint=False) + rng.uniform(0, 6.3)
        reach = np.where(np.arange(2 * points) % 2, rng.uniform(0.3, 1.0), 1.0) * size
        sheet.pen.polygon(
            [
                (float(x + far * np.cos(turn)), float(y + far * np.sin(turn)))
                for far, turn in zip(reach, around, strict=True)
            ],
            fill=fill,
        )
    return x, y


def _draw_page(rng: np.random.Generator, sheet: _Sheet) -> None:
    """Columns of text in one or two colours, with rules and boxes."""
    ink = _BLACK if rng.random() < 0.5 else sheet.colour(rng)
    for _ in range(int(rng.integers(0, 6))):
        _draw_shape(rng, sheet, sheet.length(rng, 20, 200))
    for _ in range(int(rng.integers(5, 14))):
        height = sheet.length(rng, 7, 36)
        x, y = sheet.place(rng)
        x, y = x - sheet.side * 0.2, y - sheet.side * 0.2
        for _ in range(int(rng.integers(3, 24))):
            _letter(rng, sheet, height, (x, y), ink)
            y += height * rng.uniform(1.15, 1.6)
            if rng.random() < 0.1:
                line = max(1, round(sheet.length(rng, 0.5, 3)))
                sheet.pen.line([(x, y), (x + 12 * height, y)], fill=ink, width=line)


def _letter(
    rng: np.random.Generator,
    sheet: _Sheet,
    height: float,
    place: tuple[float, float] | None = None,
    ink: Colour | None = None,
) -> None:
    """A line of words, upright, stretched or slanted, plain or bold; turned if it has no place."""
    stroke = int(height * rng.uniform(0.02, 0.06)) if rng.random() < 0.3 else 0
    font = ImageFont.load_default(height)
    words = random_words(rng)
    left, top, right, bottom = font.getbbox(words, stroke_width=stroke)
    size = (max(1, int(right - left) + 1), max(1, int(bottom - top) + 1))
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).text((-left, -top), words, fill=255, font=font, stroke_width=stroke)
    if rng.random() < 0.4:
        mask = mask.resize((max(1, int(size[0] * rng.uniform(0.6, 1.5))), size[1]))
    if rng.random() < 0.2:
        slant = rng.uniform(0.1, 0.35)
        wide = (mask.width + int(slant * mask.height), mask.height)
        shear = (1, slant, -slant * mask.height, 0, 1, 0)
        mask = mask.transform(wide, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
    if place is None and rng.random() < 0.4:
        mask = mask.rotate(rng.uniform(0, 360), Image.Resampling.BILINEAR, expand=True)
    x, y = place or sheet.place(rng)
    if place is None:
        x, y = x - mask.width / 2, y - mask.height / 2
    sheet.image.paste(ink or sheet.colour(rng), (round(x), round(y)), mask)


def _draw_lines(rng: np.random.Generator, sheet: _Sheet) -> None:
    """Line art: closed curves, some filled, with an outline of one ink, and hatching."""
    ink = _BLACK if rng.random() < 0.6 else sheet.colour(rng)
    width = sheet.length(rng, 0.7, 7)
    for _ in range(int(rng.integers(20, 120))):
        x, y = sheet.place(rng)
        points = _closed_curve(rng, sheet.length(rng, 12, 220)) + np.array([x, y])
        path = [(float(px), float(py)) for px, py in points]
        if rng.random() < 0.5:
            sheet.pen.polygon(path, fill=sheet.colour(rng))
        line = max(1, round(width * rng.uniform(0.7, 1.4)))
        sheet.pen.line([*path, path[0]], fill=ink, width=line, joint="curve")
    for _ in range(int(rng.integers(1, 10))):
        _hatch(rng, sheet, ink)


def _closed_curve(rng: np.random.Generator, size: float) -> NDArray[np.float64]:
    around = np.linspace(0.0, 2 * np.pi, 96, endpoint=False)
    reach = np.ones_like(around)
    for wave in range(2, 8):
        reach += rng.normal(0.0, 0.3 / wave) * np.sin(wave * around + rng.uniform(0, 6.3))
    return (
        np.stack([np.cos(around) * rng.uniform(0.3, 1.0), np.sin(around)], 1)
        * (reach * size)[:, None]
    )


def _hatch(rng: np.random.Generator, sheet: _Sheet, ink: Colour) -> None:
    """Parallel lines with a pitch of 2.5 pixels and more."""
    pitch, reach = sheet.length(rng, 2.5, 20), sheet.length(rng, 30, 200)
    line = max(1, round(pitch * rng.uniform(0.2, 0.6)))
    x, y = sheet.place(rng)
    angle = rng.uniform(0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    for step in np.arange(-reach, reach, pitch):
        ends = [np.array([x, y]) + across * step + along * far for far in (-reach, reach)]
        sheet.pen.line([(float(px), float(py)) for px, py in ends], fill=ink, width=line)


def _draw_chart(rng: np.random.Generator, sheet: _Sheet) -> None:
    """Grids, bars and curves, with labels."""
    for _ in range(int(rng.integers(4, 10))):
        x, y = sheet.place(rng)
        width, height = sheet.length(rng, 100, 400), sheet.length(rng, 80, 300)
        ink, line = sheet.colour(rng), max(1, round(sheet.length(rng, 0.5, 4)))
        columns, rows = (int(n) for n in rng.integers(2, 24, 2))
        sheet.pen.rectangle((x, y, x + width, y + height), fill=_background(rng, sheet.palette))
        for column in range(columns + 1):
            at = x + width * column / columns
            sheet.pen.line([(at, y), (at, y + height)], fill=ink, width=line)
        for row in range(rows + 1):
            at = y + height * row / rows
            sheet.pen.line([(x, at), (x + width, at)], fill=ink, width=line)
        bar = sheet.colour(rng)
        for column in range(columns):
            left = x + width * (column + 0.2) / columns
            box = (left, y + height * rng.random(), left + width * 0.6 / columns, y + height)
            sheet.pen.rectangle(box, fill=bar)
        curve = np.cumsum(rng.normal(0, 0.1, 40)) * height + y + height / 2
        path = [(float(x + width * n / 39), float(at)) for n, at in enumerate(curve)]
        sheet.pen.line(path, fill=sheet.colour(rng), width=2 * line, joint="curve")
        _letter(rng, sheet, sheet.length(rng, 8, 20), (x, y + height))


def _draw_blocks(rng: np.random.Generator, sheet: _Sheet) -> None:
    """Pixel art and checkers: cells of 2 to 40 pixels, some of them alike."""
    for _ in range(int(rng.integers(10, 60))):
        cell = max(1, round(sheet.length(rng, 2, 40) / _OVERSAMPLING)) * _OVERSAMPLING
        rows, columns = (int(n) for n in rng.integers(2, 24, 2))
        kinds = rng.integers(len(sheet.palette), size=(rows, columns))
        if rng.random() < 0.3:
            kinds = np.add.outer(np.arange(rows), np.arange(columns)) % 2
        if rng.random() < 0.5:
            kinds = np.concatenate([kinds, kinds[:, ::-1]], axis=1)
        colours = np.asarray(sheet.palette, np.uint8)[kinds]
        block = Image.fromarray(colours).resize(
            (colours.shape[1] * cell, colours.shape[0] * cell), Image.Resampling.NEAREST
        )
        x, y = sheet.place(rng)
        sheet.image.paste(block, (round(x - block.width / 2), round(y - block.height / 2)))


_KINDS: tuple[Callable[[np.random.Generator, _Sheet], None], ...] = (
    _draw_flag,
    _draw_logos,
    _draw_page,
    _draw_lines,
    _draw_chart,
    _draw_blocks,
)
_SHARES = (0.2, 0.25, 0.2, 0.2, 0.08, 0.07)


def _averaged_as_light(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """Reduced by averaging linear light."""
    levels = np.arange(256, dtype=np.float32) / 255.0
    light = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    pixels = light.astype(np.float32)[np.asarray(image)]
    pixels = pixels.reshape(side, _OVERSAMPLING, side, _OVERSAMPLING, 3).mean(axis=(1, 3))
    averaged: NDArray[np.uint8] = np.rint(encode_srgb(pixels) * 255.0).astype(np.uint8)
    return averaged
