"""A loaded network: what it computes with, how far it looks, and how a picture goes through it."""

from __future__ import annotations

import math
from copy import copy
from typing import Protocol

import torch
from torch import Tensor, nn

from upscaled_models.esrgan.architectures import ModelTiling
from upscaled_models.esrgan.footprint import Footprint
from upscaled_models.esrgan.learnt import Learnt
from upscaled_models.esrgan.loading import Descriptor
from upscaled_models.esrgan.precision import supported
from upscaled_models.esrgan.receptive import LARGEST_RADIUS, Reach, probe
from upscaled_models.esrgan.rowgraph import RowGraph
from upscaled_models.esrgan.tilestream import TileStream
from upscaled_models.esrgan.tracing import NotRowLocalError, trace

# Side of the tile that a network's memory is measured with.
_SAMPLE_SIDE = 64
# Layers whose few weights stay in fp32: they take either input then.
_NORMALISATIONS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)


class Stream(Protocol):
    """A picture, or a column of it, on its way through a network from the top row down."""

    def feed(self, rows: Tensor) -> Tensor | None:
        """Take the next band, (B, C, h, W) in float32; give what is ready of the result."""

    def drain(self) -> Tensor | None:
        """After the last band: give the next of the rows that are still on their way."""


class Network:
    """One network on one device in one precision. Safe to use from any thread.

    architecture: as spandrel calls it.
    scale: output pixels an input pixel. channels: 1 or 3, in and out.
    by_rows: whether it runs row by row, so that bands of any height cost the same.
    overlap: pixels of its neighbours that a tile has to see.
    exact: whether that is all that the result depends on, so that tiles need no blending.
    reach: rows above a row of the result that it depends on or comes out with.
    lag: rows that a stream's result is behind its source.
    align: what the edges of tiles inside a picture have to be multiples of; divides `overlap`.
    tiling: what the architecture says about tiles.
    learnt: what is kept of its file on the disk; None for nothing.
    size_bytes: memory of the weights.
    column_bytes, pixel_bytes: memory of a stream for each column of its source between bands, and
    for each pixel of a band, overlap included, while that is computed.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        device: torch.device,
        dtype: torch.dtype,
        learnt: Learnt | None = None,
    ) -> None:
        sizes = descriptor.size_requirements
        self.device = device
        self.dtype = supported(descriptor, dtype)
        self.architecture: str = descriptor.architecture.name
        self.scale: int = descriptor.scale
        self.channels: int = descriptor.input_channels
        self.tiling: ModelTiling = descriptor.tiling
        self.size_bytes = self.dtype.itemsize * sum(
            weight.numel() for weight in descriptor.model.parameters()
        )
        self._minimum: int = sizes.minimum
        self._multiple: int = sizes.multiple_of
        self.learnt = learnt
        self._graph: RowGraph | None = None
        self.by_rows = True
        descriptor.model.to(device)
        try:
            self._graph = trace(descriptor.model, self.channels, self._multiple, self.dtype)
        except NotRowLocalError:
            self.by_rows = False
            self._descriptor = descriptor
            self._prepare_tiles()
        else:
            # Tiles that begin where bands may end have the bits of rows.
            self._describe(self._graph.radius, math.lcm(self._multiple, self._graph.step))
            self.lag, self.reach = self._graph.lag, self._graph.radius
            self.size_bytes += self._graph.extra_bytes
            self.column_bytes = self._graph.column_bytes
            self.pixel_bytes = self._graph.pixel_bytes

    def in_tiles(self) -> Network:
        """The same network, which runs row by row, in whole tiles: these hold nothing between
        bands, but compute their overlap twice, and are blended where it is not all they see."""
        tiled = copy(self)
        tiled.by_rows = False
        tiled.lag, tiled.reach = tiled.overlap, 2 * tiled.overlap
        return tiled

    def padded(self, side: int) -> int:
        """The side of the picture that the network has to be given for one of `side` pixels."""
        return math.ceil(max(side, self._minimum) / self._multiple) * self._multiple

    def open(self, height: int, band_rows: int, *, as_bytes: bool = False) -> Stream:
        """Begin a column of `height` rows, in bands of `band_rows`, the last of what is left.

        as_bytes: the result may come in uint8, as files have it.
        """
        if self._graph is not None and self.by_rows:
            return self._graph.open(height, band_rows, as_bytes=as_bytes)
        return TileStream(
            self._forward,
            scale=self.scale,
            height=height,
            band_rows=band_rows,
            overlap=self.overlap,
            exact=self.exact,
        )

    def _describe(self, radius: int | None, align: int) -> None:
        self.align = align
        self.exact = radius is not None and radius <= LARGEST_RADIUS
        # A tile must not be smaller than the least that the network takes.
        wanted = max(radius if self.exact and radius is not None else LARGEST_RADIUS, self._minimum)
        self.overlap = math.ceil(wanted / align) * align

    def _prepare_tiles(self) -> None:
        known = None if self.learnt is None else self.learnt.find().tiles
        # Before the network gets another precision, in which neighbours are less easily told apart.
        reach = self._probe() if known is None else Reach(known.radius, known.period)
        model = self._descriptor.model
        model.to(dtype=self.dtype, memory_format=torch.channels_last)
        for layer in model.modules():
            if isinstance(layer, _NORMALISATIONS):
                layer.float()
        pixel_bytes = self._measure_pixel_bytes() if known is None else known.pixel_bytes
        if known is None and self.learnt is not None:
            self.learnt.keep_tiles(reach, pixel_bytes)
        self._describe(reach.radius, reach.period)
        self.lag, self.reach = self.overlap, 2 * self.overlap
        self.column_bytes = 0
        self.pixel_bytes = pixel_bytes

    def _probe(self) -> Reach:
        return probe(
            lambda picture: self._descriptor(picture.clone()),
            channels=self.channels,
            scale=self.scale,
            multiple=self._multiple,
            device=self.device,
        )

    def _measure_pixel_bytes(self) -> int:
        side = self.padded(_SAMPLE_SIDE)
        with torch.inference_mode(), Footprint() as footprint:
            self._forward(torch.zeros(1, self.channels, side, side, device=self.device))
        pixel_bytes: int = math.ceil(footprint.peak_bytes / side**2)
        return pixel_bytes

    def _forward(self, tile: Tensor) -> Tensor:
        if self._graph is not None:
            return self._graph.whole(tile)
        # A copy in any case: some architectures write into what they are given.
        tile = tile.to(self.dtype, memory_format=torch.channels_last, copy=True)
        # Many architectures make masks and positions in fp32, and multiply them with the rest.
        half = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype, enabled=half):
            # One at a time: not every architecture takes a batch.
            parts = [self._descriptor(tile[index : index + 1]) for index in range(len(tile))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
