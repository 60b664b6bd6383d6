"""The picture between engine and encoder, and operations on its rows.

Rows are arrays of (h, W, C), uint8 or uint16, from the top down, in blocks of any height.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Picture:
    """A size in pixels, and bands: 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and straight alpha.

    `bits` per channel: 8 or 16.
    """

    width: int
    height: int
    bands: int
    bits: int

    @property
    def has_alpha(self) -> bool:
        """True if the last band is alpha."""
        return self.bands in (2, 4)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.width * self.bands * self.bits // 8


def in_blocks(rows: Iterable[np.ndarray], height: int) -> Iterator[np.ndarray]:
    """The same rows in contiguous blocks of `height`; the last one may be lower."""
    held: list[np.ndarray] = []
    count = 0
    for block in rows:
        start = 0
        while start < len(block):
            part = block[start : start + height - count]
            start += len(part)
            count += len(part)
            held.append(part)
            if count == height:
                yield np.concatenate(held)
                held, count = [], 0
    if held:
        yield np.concatenate(held)


def cropped(
    rows: Iterable[np.ndarray], x: int, y: int, width: int, height: int
) -> Iterator[np.ndarray]:
    """The window of `width` by `height` pixels whose upper left corner is at `x`, `y`."""
    top = 0
    for block in rows:
        kept = block[max(0, y - top) : max(0, y + height - top), x : x + width]
        top += len(block)
        if len(kept):
            yield kept


def to_eight_bits(rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """16 bits per channel to 8, rounded to the nearest."""
    for block in rows:
        yield ((block.astype(np.uint32) + 128) // 257).astype(np.uint8)


def on_white(rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """8 bits with alpha to 8 bits without, on a white background."""
    for block in rows:
        colour = block[:, :, :-1].astype(np.uint32)
        alpha = block[:, :, -1:].astype(np.uint32)
        yield ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
