"""A network that only takes whole tiles, run from the top row down in tiles that overlap."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from upscaled_models.esrgan.rows.buffer import RowBuffer
from upscaled_models.esrgan.workshare import tile_rows
from upscaled_models.tiling import blend_margin, cosine_weights


class TileStream:
    """One picture on its way through a network, a tile after the other.

    Each tile sees `overlap` rows of its neighbours above and below. If no pixel depends on more
    rows (`exact`), these rows are cut off the result. Otherwise the middle half of the overlap is
    blended from one tile into the next.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        *,
        scale: int,
        height: int,
        band_rows: int,
        overlap: int,
        exact: bool,
    ) -> None:
        self._forward = forward
        self._scale = scale
        self._height = height
        self._overlap = overlap
        self._blend = blend_margin(band_rows, overlap, exact=exact)
        self._steps = tile_rows(height, band_rows, overlap, exact=exact)
        self._rows = RowBuffer()
        self._faded: Tensor | None = None

    def feed(self, rows: Tensor) -> Tensor | None:
        """Take the next band, (B, C, h, W) in float32; give what is ready of the result."""
        self._rows.push(rows)
        return self._advance()

    def drain(self) -> Tensor | None:
        """After the last band: give the next of the rows that are still on their way."""
        return self._advance()

    def _advance(self) -> Tensor | None:
        rows = next(self._steps)
        if not rows.length:
            return None
        seen = rows.widened(self._overlap, self._height)
        tile = self._forward(self._rows.take(seen.start, seen.stop))
        self._rows.drop_before(max(rows.stop - self._overlap, 0))
        is_last = rows.stop == self._height
        return self._joined(tile, rows.start - seen.start, rows.stop - seen.start, is_last)

    def _joined(self, tile: Tensor, first: int, last: int, is_last: bool) -> Tensor:
        """Rows `first` to `last` of the tile, shifted up by the blended rows."""
        scale, blend = self._scale, self._blend
        if not blend:
            return tile[:, :, first * scale : last * scale]
        pieces = []
        start = first * scale
        if self._faded is not None:
            ramp = cosine_weights(2 * blend * scale, tile.device).reshape(1, 1, -1, 1)
            rising = tile[:, :, (first - blend) * scale : (first + blend) * scale]
            pieces.append(self._faded + ramp * rising)
            start = (first + blend) * scale
        end = tile.shape[2] if is_last else (last - blend) * scale
        pieces.append(tile[:, :, start:end])
        if not is_last:
            falling = tile[:, :, end : (last + blend) * scale]
            ramp = cosine_weights(2 * blend * scale, tile.device).reshape(1, 1, -1, 1)
            self._faded = (1 - ramp) * falling
        return torch.cat([piece.float() for piece in pieces], 2)
