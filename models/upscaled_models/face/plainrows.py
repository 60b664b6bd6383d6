"""A picture that keeps its size: its rows as they are."""

from __future__ import annotations

import torch

from upscaled_imaging.read import Source
from upscaled_models.engine import Context
from upscaled_models.picture import Enlargement, RowBlocks
from upscaled_protocol.messages import Size

_READ_ROWS = 64


class PlainRows(Enlargement):
    """Gives the source's rows."""

    def __init__(self, source: Source, context: Context, device: torch.device) -> None:
        """device: where the faces are computed."""
        self.size = Size(width=source.width, height=source.height)
        self.bits = source.bits
        self.device = str(device)
        self._source = source
        self._context = context

    def rows(self) -> RowBlocks:
        """The source's rows. Raises `JobError`."""
        while self._source.rows_left:
            with self._context.phase("decode"):
                rows = self._source.rows(_READ_ROWS)
            yield rows
