"""A loaded network: what it computes with, how far it looks, and how a picture goes through it."""

from __future__ import annotations

import math
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from upscaled_models.device.threads import computing_thread
from upscaled_models.esrgan.architectures import ModelTiling
from upscaled_models.esrgan.footprint import Footprint
from upscaled_models.esrgan.learnt import Learnt
from upscaled_models.esrgan.loading import Descriptor
from upscaled_models.esrgan.precision import supported
from upscaled_models.esrgan.receptive import LARGEST_RADIUS, Reach, probe
from upscaled_models.esrgan.rows.graph import RowGraph
from upscaled_models.esrgan.rows.tracing import NotRowLocalError, trace
from upscaled_models.esrgan.tilestream import TileStream

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


@dataclass(frozen=True)
class Sight:
    """What has to be known of a network to cut a picture.

    overlap: pixels of its neighbours that a tile has to see.
    exact: whether that is all that the result depends on, so that tiles need no blending.
    reach: rows above a row of the result that it depends on or comes out with.
    align: what the edges of tiles inside a picture have to be multiples of; divides `overlap`.
    pixel_bytes: memory for each pixel of a band, overlap included, while that is computed.
    """

    overlap: int
    exact: bool
    reach: int
    align: int
    pixel_bytes: int

    def in_tiles(self) -> Sight:
        """The same in whole tiles."""
        return replace(self, reach=2 * self.overlap)


class Network:
    """One network on one device in one precision. Safe to use from any thread.

    architecture: as spandrel calls it.
    scale: output pixels an input pixel. channels: 1 or 3, in and out.
    by_rows: whether it runs row by row, so that bands of any height cost the same.
    lag: by rows, the source rows that a stream's result is behind.
    tiling: what the architecture says about tiles.
    learnt: what is kept of its file on the disk; None for nothing.
    size_bytes: memory of the weights.
    column_bytes: memory of a stream for each column of its source between bands.
    sight: and what of it has a name here, in tiles is found out when it is first asked for. That
    takes many times as long as to load the network, and a picture in one piece does not need it.
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
        self._sight: Sight | None = None
        self.by_rows = True
        self.lag = self.column_bytes = 0
        descriptor.model.to(device)
        try:
            self._graph = trace(descriptor.model, self.channels, self._multiple, self.dtype)
        except NotRowLocalError:
            self.by_rows = False
            self._descriptor = descriptor
            descriptor.model.to(dtype=self.dtype, memory_format=torch.channels_last)
            for layer in descriptor.model.modules():
                if isinstance(layer, _NORMALISATIONS):
                    layer.float()
        else:
            radius = self._graph.radius
            # Tiles that begin where bands may end have the bits of rows.
            reach = Reach(radius, math.lcm(self._multiple, self._graph.step))
            self._sight = replace(self._seen(reach, self._graph.pixel_bytes), reach=radius)
            self.lag = self._graph.lag
            self.size_bytes += self._graph.extra_bytes
            self.column_bytes = self._graph.column_bytes

    def in_tiles(self) -> Network:
        """The same network, which runs row by row, in whole tiles: these hold nothing between
        bands, but compute their overlap twice, and are blended where it is not all they see."""
        tiled = copy(self)
        tiled.by_rows = False
        tiled._sight = self.sight.in_tiles()
        return tiled

    @property
    def sight(self) -> Sight:
        """What has to be known to cut a picture."""
        if self._sight is None:
            # An accelerator can look at a network while it computes with another.
            on_processor = self.device.type == "cpu"
            self._sight = computing_thread().run(self._look) if on_processor else self._look()
        return self._sight

    @property
    def overlap(self) -> int:
        return self.sight.overlap

    @property
    def exact(self) -> bool:
        return self.sight.exact

    @property
    def reach(self) -> int:
        return self.sight.reach

    @property
    def align(self) -> int:
        return self.sight.align

    @property
    def pixel_bytes(self) -> int:
        return self.sight.pixel_bytes

    def padded(self, side: int) -> int:
        """The side of the picture that the network has to be given for one of `side` pixels."""
        return math.ceil(max(side, self._minimum) / self._multiple) * self._multiple

    def open(self, height: int, band_rows: int, *, as_bytes: bool = False) -> Stream:
        """Begin a column of `height` rows, in bands of `band_rows`, the last of what is left.

        as_bytes: the result may come in uint8, as files have it.
        """
        if self._graph is not None and self.by_rows:
            return self._graph.open(height, band_rows, as_bytes=as_bytes)
        # A picture's whole height has no neighbours.
        is_whole = band_rows >= height
        return TileStream(
            self._forward,
            scale=self.scale,
            height=height,
            band_rows=band_rows,
            overlap=0 if is_whole else self.overlap,
            exact=is_whole or self.exact,
        )

    def _seen(self, reach: Reach, pixel_bytes: int) -> Sight:
        radius, align = reach.radius, reach.period
        exact = radius is not None and radius <= LARGEST_RADIUS
        # A tile must not be smaller than the least that the network takes.
        wanted = max(radius if exact and radius is not None else LARGEST_RADIUS, self._minimum)
        overlap = math.ceil(wanted / align) * align
        return Sight(overlap, exact, 2 * overlap, align, pixel_bytes)

    def _look(self) -> Sight:
        """Find out what is not kept of the network's file."""
        if self._sight is not None:  # another job was faster
            return self._sight
        known = None if self.learnt is None else self.learnt.find().tiles
        if known is not None:
            return self._seen(Reach(known.radius, known.period), known.pixel_bytes)
        reach, pixel_bytes = self._probe(), self._measure_pixel_bytes()
        if self.learnt is not None:
            self.learnt.keep_tiles(reach, pixel_bytes)
        return self._seen(reach, pixel_bytes)

    def _probe(self) -> Reach:
        descriptor = self._descriptor
        if self.dtype != torch.float32:
            # In half precision neighbours are less easily told apart.
            descriptor = deepcopy(descriptor).float()
        return probe(
            lambda picture: descriptor(picture.clone()),
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
