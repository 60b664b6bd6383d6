"""Scenes as maps of shape numbers: leaves, strands, masonry, wires and lettering."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]

LETTERS = string.ascii_letters + string.digits + "&?!.,:;#%"


@dataclass(frozen=True)
class Drawing:
    """The shape at each pixel, and the place of each shape."""

    numbers: NDArray[np.int32]  # (H, W), 0 is the background
    centre: NDArray[np.float32]  # (shapes, 2), pixels: row, column
    radius: NDArray[np.float32]  # (shapes,), pixels

    @property
    def count(self) -> int:
        """How many shapes there are, the background among them."""
        return len(self.radius)


def draw_scene(rng: np.random.Generator, side: int) -> Drawing:
    """A scene of one random kind, `side` pixels square."""
    canvas = _Canvas(side)
    kind = rng.choice(["leaves", "plain", "strands", "masonry"], p=[0.4, 0.2, 0.2, 0.2])
    area = (side / 1536) ** 2  # the counts below were chosen for pictures of 768 pixels
    leaves = {"leaves": 5000, "plain": 60, "strands": 120, "masonry": 250}[str(kind)]
    _leaves(rng, canvas, max(3, int(leaves * area * rng.uniform(0.3, 1.5))))
    if kind == "strands":
        for _ in range(max(1, int(rng.integers(4, 16) * area))):
            _tuft(rng, canvas)
        _leaves(rng, canvas, int(40 * area))
    if kind == "masonry":
        for _ in range(max(1, int(rng.integers(3, 14) * area))):
            _lattice(rng, canvas)
    for _ in range(int(rng.integers(0, 40) * area)):
        _wire(rng, canvas)
    if rng.random() < 0.4:
        for _ in range(int(rng.integers(1, 20) * area)):
            _lettering(rng, canvas)
    return canvas.finish()


class _Canvas:
    """A map of shape numbers that shapes are painted on, the last one in front."""

    def __init__(self, side: int) -> None:
        self.side = side
        self._image = Image.new("I", (side, side), 0)
        self.pen = ImageDraw.Draw(self._image)
        self._centres: list[Point] = [(side / 2, side / 2)]
        self._radii: list[float] = [side / 2]

    def add(self, row: float, column: float, radius: float) -> int:
        """Register a shape; returns the number to paint it with."""
        self._centres.append((row, column))
        self._radii.append(max(radius, 1.0))
        return len(self._radii) - 1

    def polygon(self, points: NDArray[np.float64], number: int) -> None:
        """Fill `points`, (n, 2) as row and column."""
        self.pen.polygon([(float(x), float(y)) for y, x in points], fill=number)

    def finish(self) -> Drawing:
        return Drawing(
            numbers=np.array(self._image, dtype=np.int32),
            centre=np.array(self._centres, dtype=np.float32),
            radius=np.array(self._radii, dtype=np.float32),
        )


def _anywhere(rng: np.random.Generator, side: int) -> Point:
    row, column = rng.uniform(-0.05, 1.05, 2) * side
    return float(row), float(column)


def _radius(rng: np.random.Generator, smallest: float, largest: float) -> float:
    """A radius whose density falls as its third power: every size covers the same area."""
    low, high = smallest**-2.0, largest**-2.0
    return float((high + (low - high) * rng.random()) ** -0.5)


def _leaves(rng: np.random.Generator, canvas: _Canvas, count: int) -> None:
    smallest = np.exp(rng.uniform(np.log(3.0), np.log(12.0)))
    if count < 200:
        smallest = canvas.side / 40
    squareness = rng.random()
    for _ in range(count):
        row, column = _anywhere(rng, canvas.side)
        radius = _radius(rng, smallest, canvas.side / 3)
        number = canvas.add(row, column, radius)
        make_outline = _angular_outline if rng.random() < squareness else _round_outline
        canvas.polygon(make_outline(rng) * radius + np.array([row, column]), number)


def _turn(points: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    cosine, sine = np.cos(angle), np.sin(angle)
    turned: NDArray[np.float64] = points @ np.array([[cosine, sine], [-sine, cosine]])
    return turned


def _round_outline(rng: np.random.Generator) -> NDArray[np.float64]:
    """An ellipse or a wavy blob about the origin: (48, 2), radius about 1."""
    around = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
    reach = np.ones_like(around)
    if rng.random() < 0.5:
        for wave in range(2, 6):
            reach += rng.normal(0.0, 0.25 / wave) * np.sin(wave * around + rng.uniform(0, 6.3))
    squash = rng.uniform(0.25, 1.0)
    points = np.stack([reach * np.sin(around) * squash, reach * np.cos(around)], axis=1)
    return _turn(points, rng.uniform(0.0, np.pi))


def _angular_outline(rng: np.random.Generator) -> NDArray[np.float64]:
    """A rectangle or a star-shaped polygon about the origin: (3 to 8, 2), radius about 1."""
    angle = rng.uniform(0.0, np.pi)
    if rng.random() < 0.5:
        if rng.random() < 0.5:
            angle = rng.normal(0.0, 0.03)  # most built things stand upright
        flat = rng.uniform(0.1, 1.0)
        return _turn(np.array([[-flat, -1], [-flat, 1], [flat, 1], [flat, -1]]), angle)
    around = np.sort(rng.uniform(0.0, 2 * np.pi, int(rng.integers(3, 9))))
    reach = rng.uniform(0.4, 1.2, len(around))
    return np.stack([reach * np.sin(around), reach * np.cos(around)], axis=1)


def _tuft(rng: np.random.Generator, canvas: _Canvas) -> None:
    """Fur, hair or grass: many thin curved strands that run much the same way."""
    row, column = _anywhere(rng, canvas.side)
    spread = rng.uniform(0.1, 0.4) * canvas.side
    length = np.exp(rng.uniform(np.log(20.0), np.log(200.0)))
    width = rng.uniform(1.0, 6.0)
    direction, disorder = rng.uniform(0.0, 2 * np.pi), rng.uniform(0.05, 0.5)
    shades = [canvas.add(row, column, spread) for _ in range(int(rng.integers(3, 12)))]
    roots = rng.normal(0.0, 0.5, (int(rng.integers(300, 2500)), 2)) * spread + (row, column)
    angles = direction + rng.normal(0.0, disorder, len(roots))
    bends = rng.normal(0.0, 0.4, len(roots))
    steps = np.linspace(0.0, 1.0, 5)
    for root, angle, bend in zip(roots, angles, bends, strict=True):
        heading = angle + bend * steps
        path = root + np.stack([np.sin(heading), np.cos(heading)], axis=1) * (
            length * steps[:, None]
        )
        _stroke(canvas, path, rng.uniform(0.5, 1.5) * width, shades[rng.integers(len(shades))])


def _stroke(canvas: _Canvas, path: NDArray[np.float64], width: float, number: int) -> None:
    points = [(float(x), float(y)) for y, x in path]
    canvas.pen.line(points, fill=number, width=max(1, round(width)))


def _wire(rng: np.random.Generator, canvas: _Canvas) -> None:
    """One long line, straight or sagging, 1 to 14 rendered pixels wide."""
    start, end = np.array(_anywhere(rng, canvas.side)), np.array(_anywhere(rng, canvas.side))
    steps = np.linspace(0.0, 1.0, 24)[:, None]
    sag = rng.choice([0.0, rng.normal(0.0, 0.15)]) * canvas.side * 4 * steps * (1 - steps)
    middle = (start + end) / 2
    number = canvas.add(middle[0], middle[1], canvas.side / 2)
    path = start + (end - start) * steps + np.concatenate([sag, np.zeros_like(sag)], axis=1)
    _stroke(canvas, path, float(np.exp(rng.uniform(0.0, np.log(14.0)))), number)


def _lattice(rng: np.random.Generator, canvas: _Canvas) -> None:
    """Windows, tiles, bricks or fences: one small shape repeated on a tilted grid."""
    row, column = _anywhere(rng, canvas.side)
    pitch = np.exp(rng.uniform(np.log(6.0), np.log(90.0), 2))
    filled = rng.uniform(0.3, 0.9, 2)
    angle = rng.choice([rng.normal(0.0, 0.05), rng.uniform(0.0, np.pi)])
    rows, columns = (int(n) for n in np.clip(rng.uniform(0.15, 0.6) * canvas.side / pitch, 2, 40))
    middle = np.array([row, column])
    wall = canvas.add(row, column, canvas.side / 4)
    extent = np.array([rows, columns]) * pitch / 2 + rng.uniform(0.0, 20.0)
    corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]], dtype=np.float64)
    canvas.polygon(_turn(corners * extent, angle) + middle, wall)
    shades = [canvas.add(row, column, canvas.side / 4) for _ in range(int(rng.integers(1, 5)))]
    stagger = rng.choice([0.0, 0.5])
    for y in range(rows):
        for x in range(columns):
            cell = np.array([y - (rows - 1) / 2, x - (columns - 1) / 2 + stagger * (y % 2)]) * pitch
            outline = corners * pitch / 2 * filled + cell
            canvas.polygon(_turn(outline, angle) + middle, shades[rng.integers(len(shades))])


def _lettering(rng: np.random.Generator, canvas: _Canvas) -> None:
    """A few words in Pillow's own font, which is the same on every machine."""
    row, column = _anywhere(rng, canvas.side)
    height = float(np.exp(rng.uniform(np.log(12.0), np.log(160.0))))
    number = canvas.add(row, column, height * 3)
    lines = [random_words(rng) for _ in range(int(rng.integers(1, 5)))]
    font = ImageFont.load_default(height)
    canvas.pen.text((column - 3 * height, row), "\n".join(lines), fill=number, font=font)


def random_words(rng: np.random.Generator) -> str:
    """Three to 23 letters, digits and signs, with spaces between some."""
    letters: Sequence[str] = rng.choice(list(LETTERS), size=int(rng.integers(3, 24))).tolist()
    return "".join(" " if rng.random() < 0.15 else letter for letter in letters)
