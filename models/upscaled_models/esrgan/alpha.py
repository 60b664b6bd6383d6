"""Bounds for enlarged alpha: what is opaque stays opaque, what is clear stays clear.

A network that was trained on colours answers 254 where 255 went in. Alpha is held between the
least and the greatest value of the nine source pixels around, so that flat areas keep their value
and edges get no halo.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from upscaled_models.esrgan.rows.buffer import RowBuffer


class AlphaBounds:
    """Source alpha on the one side, enlarged alpha on the other, both from the top down."""

    def __init__(self, height: int, enlargement: int) -> None:
        self._height = height
        self._enlargement = enlargement
        self._source = RowBuffer()
        self._given = 0

    def push(self, alpha: Tensor) -> None:
        """Take the next source rows, (1, 1, h, W)."""
        self._source.push(alpha)

    @torch.inference_mode()
    def clamp(self, alpha: Tensor) -> Tensor:
        """The next enlarged rows, (1, 1, h', W'), within their bounds."""
        factor = self._enlargement
        first, last = self._given, self._given + alpha.shape[2]
        top, bottom = first // factor, -(-last // factor)
        above, below = max(top - 1, 0), min(bottom + 1, self._height)
        source = self._source.take(above, below)
        bounds = []
        for sign in (-1, 1):
            # The least value is the greatest of the negatives; padding counts for neither.
            extreme = sign * functional.max_pool2d(sign * source, 3, stride=1, padding=1)
            rows = extreme[:, :, top - above : bottom - above]
            rows = functional.interpolate(rows, scale_factor=factor, mode="nearest")
            bounds.append(rows[:, :, first - top * factor : last - top * factor])
        self._given = last
        self._source.drop_before(max(last // factor - 1, 0))
        return torch.clamp(alpha, bounds[0], bounds[1])
