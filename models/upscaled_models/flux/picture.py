"""A picture's rows as the model takes them: colours, in bands of tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from upscaled_imaging.rows import Picture, in_blocks
from upscaled_models.flux.tiles import tile_offsets
from upscaled_models.tiling import stitch

# From a band (3, h, W), 0 to 1, and its first row to the same band refined.
Refine = Callable[[Tensor, int], Tensor]


def refine_rows(
    rows: Iterable[np.ndarray], picture: Picture, *, side: int, grid: int, refine: Refine
) -> Iterator[np.ndarray]:
    """Refine a picture from the top down, with two bands of tiles in memory.

    Rows are (h, W, 1 to 4) of uint8 or uint16, in and out. Gray is three equal colours for the
    model, and their mean afterwards; alpha is copied. A side that is no multiple of the grid is
    extended with its last pixels, which are cut off afterwards.
    """
    offsets = band_offsets(picture.height, side, grid)
    held = _Held(rows, picture, grid)
    bands = (refine(held.band(offset, min(side, held.padded_height)), offset) for offset in offsets)
    written = 0
    for colours in stitch(bands, offsets, 1):
        count = min(colours.shape[1], picture.height - written)
        if count > 0:
            yield held.finished(colours[:, :count, : picture.width])
        written += count


def band_offsets(height: int, side: int, grid: int) -> list[int]:
    """First rows of the bands of tiles."""
    return tile_offsets(_padded(height, grid), side, grid)


class _Held:
    """The rows of the source that are still needed, and their alpha."""

    def __init__(self, rows: Iterable[np.ndarray], picture: Picture, grid: int) -> None:
        self.padded_height = _padded(picture.height, grid)
        self._padding = _padded(picture.width, grid) - picture.width
        self._picture = picture
        self._top_value = float(2**picture.bits - 1)
        self._blocks = in_blocks(rows, grid)
        self._colours: list[np.ndarray] = []
        self._colours_from = 0
        self._alpha: list[np.ndarray] = []
        self._read = 0

    def band(self, top: int, height: int) -> Tensor:
        """Rows `top` to `top + height`, (3, height, padded width), 0 to 1 in float32."""
        while self._read < min(top + height, self._picture.height):
            block = next(self._blocks)
            self._read += len(block)
            colours = self._picture.bands - self._picture.has_alpha
            self._colours.append(block[:, :, :colours])
            if self._picture.has_alpha:
                self._alpha.append(block[:, :, colours:])
        held = np.concatenate(self._colours)[top - self._colours_from :]
        self._colours, self._colours_from = [held], top
        values = torch.from_numpy(held[:height].astype(np.float32)) / self._top_value
        planes = values.permute(2, 0, 1).expand(3, -1, -1).unsqueeze(0)
        below = height - planes.shape[2]
        return functional.pad(planes, (0, self._padding, 0, below), mode="replicate")[0]

    def finished(self, colours: Tensor) -> np.ndarray:
        """Refined colours (3, h, W) and their alpha as rows of the picture."""
        if self._picture.bands < 3:
            colours = colours.mean(0, keepdim=True)
        values = colours.permute(1, 2, 0).numpy() * np.float32(self._top_value)
        coded = np.clip(values + np.float32(0.5), 0, self._top_value)
        rows = coded.astype(np.uint8 if self._picture.bits == 8 else np.uint16)
        if not self._picture.has_alpha:
            return np.ascontiguousarray(rows)
        alpha = np.concatenate(self._alpha)
        self._alpha = [alpha[len(rows) :]]
        return np.concatenate((rows, alpha[: len(rows)]), axis=2)


def _padded(length: int, grid: int) -> int:
    return -(-length // grid) * grid
