"""A loaded network: its precision, how far it looks, and how a picture goes through it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor, nn

from upscaled_models.allocator import reusing_large_blocks
from upscaled_models.device.out_of_memory import is_out_of_memory
from upscaled_models.device.threads import computing_thread
from upscaled_models.esrgan.architectures import ModelTiling
from upscaled_models.esrgan.attention import FusedAttention
from upscaled_models.esrgan.copies import CompiledCopies
from upscaled_models.esrgan.footprint import Footprint, footprint_by_shapes
from upscaled_models.esrgan.layers import with_compiled_layers
from upscaled_models.esrgan.loading import Descriptor
from upscaled_models.esrgan.masks import masks_of_a_tile, share_masks
from upscaled_models.esrgan.precision import supported
from upscaled_models.esrgan.probecache import ProbeCache
from upscaled_models.esrgan.receptive import (
    LARGEST_RADIUS,
    ReceptiveField,
    has_many_windows,
    looking_far,
    probe,
    stated_windows,
)
from upscaled_models.esrgan.rows.graph import RowGraph
from upscaled_models.esrgan.rows.tracing import NotRowLocalError, trace
from upscaled_models.esrgan.tilestream import TileStream
from upscaled_protocol.errors import ErrorCode, JobError

# Side of the tile that a network's memory and speed are measured with.
_SAMPLE_SIDE = 64
# A tile of more pixels is computed with memory that is returned afterwards: its tensors are larger
# than what glibc reuses by itself, and clearing their pages took a quarter of the time.
_LARGE_TILE_PIXELS = 40_000
# Layers whose few weights stay in fp32, because they then take inputs of both precisions.
_NORMALISATIONS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)


class Stream(Protocol):
    """A picture, or one column of it, on its way through a network from the top row down."""

    def feed(self, rows: Tensor) -> Tensor | None:
        """Take the next band, (B, C, h, W) in float32; give what is ready of the result."""

    def drain(self) -> Tensor | None:
        """After the last band: give the next of the rows that are still on their way."""


@dataclass(frozen=True)
class TileGeometry:
    """How a picture has to be cut for a network.

    overlap: pixels of its neighbours that a tile has to see.
    exact: True if the result depends on no other pixels, so that tiles need no blending.
    reach: source rows above a row of the result that are needed to compute it again.
    align: the edges of tiles inside a picture are multiples of it; divides `overlap`.
    pixel_bytes: memory per pixel of a band, overlap included, while it is computed.
    """

    overlap: int
    exact: bool
    reach: int
    align: int
    pixel_bytes: int

    def in_tiles(self) -> TileGeometry:
        """The same in whole tiles."""
        return replace(self, reach=2 * self.overlap)


class Network:
    """One network on one device in one precision. Safe to use from any thread.

    architecture: spandrel's name of it.
    scale: output pixels per input pixel, to each side; 1 for a network that restores a picture.
    channels: 1 or 3, in and out.
    by_rows: True if it runs row by row; then bands of any height cost the same per row.
    lag: by rows, the source rows by which a stream's result is behind.
    costs: by rows, what its operations cost per pixel, each with the source rows that it is behind.
    tiling: what the architecture says about tiles.
    probe_cache: what is kept of its file on the disk; None for nothing.
    size_bytes: memory of the weights.
    column_bytes: memory of a stream between bands, per column of its source.
    pixel_values: by rows, how many values the largest tensor has per pixel of a band.
    geometry: and what of it has a name here, in tiles is found out when it is first asked for. That
    takes many times as long as to load the network, and a picture in one piece does not need it.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        device: torch.device,
        dtype: torch.dtype,
        probe_cache: ProbeCache | None = None,
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
        self.probe_cache = probe_cache
        self._graph: RowGraph | None = None
        self._geometry: TileGeometry | None = None
        self.costs: Sequence[tuple[float, float]] = ()
        self.by_rows = True
        self.lag = self.column_bytes = self.pixel_values = 0
        descriptor.model.to(device)
        try:
            self._graph = trace(
                descriptor.model,
                self.channels,
                self._multiple,
                self.dtype,
                # Some networks take a map of noise beside the picture, or give more than one.
                partial(descriptor._call_fn, descriptor.model),
            )
        except NotRowLocalError:
            self.by_rows = False
            self._descriptor = descriptor
            descriptor.model.to(dtype=self.dtype)
            for weight in descriptor.model.parameters():
                if weight.dim() == 4:  # `Module.to` raises for weights of five dimensions
                    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
            for layer in descriptor.model.modules():
                if isinstance(layer, _NORMALISATIONS):
                    layer.float()
            share_masks(descriptor.model)
            # To see how far it looks, the module's own layers and attention compute: the compiled
            # ones round pixels of a tile together, so some would seem to depend on others.
            self._compiled, self._layers = with_compiled_layers(descriptor, self.dtype)
            self.size_bytes += sum(layer.extra_bytes for layer in self._layers)
        else:
            radius = self._graph.radius
            # Tiles that begin at rows where bands may end give the bits of rows.
            reach = ReceptiveField(radius, math.lcm(self._multiple, self._graph.step))
            self._geometry = replace(
                self._geometry_of(reach, self._graph.pixel_bytes), reach=radius
            )
            self.lag, self.costs = self._graph.lag, self._graph.costs
            self.size_bytes += self._graph.extra_bytes
            self.column_bytes = self._graph.column_bytes
            self.pixel_values = math.ceil(self._graph.largest_bytes / self.dtype.itemsize)

    def in_tiles(self) -> Network:
        """The same network in tiles instead of rows. Tiles hold less between bands, but compute
        their overlap twice, and are blended if the network looks farther than the overlap."""
        tiled = copy(self)
        tiled.by_rows = False
        tiled._geometry = self.geometry.in_tiles()
        return tiled

    @property
    def geometry(self) -> TileGeometry:
        """How a picture has to be cut."""
        if self._geometry is None:
            # An accelerator can probe one network while it computes with another.
            on_processor = self.device.type == "cpu"
            self._geometry = (
                computing_thread().run(self._find_geometry)
                if on_processor
                else self._find_geometry()
            )
        return self._geometry

    @cached_property
    def pixel_s(self) -> float:
        """Seconds per source pixel, measured on a small tile when it is first asked for. Says how
        long a job of several networks is in each of them. The device must be the caller's."""
        side = self.padded(_SAMPLE_SIDE)
        tile = torch.zeros(1, self.channels, side, side, device=self.device)
        with torch.inference_mode():
            self._forward(tile)  # the first time, kernels are chosen and weights are laid out
            start = time.perf_counter()
            # To read a pixel of it waits for an accelerator.
            self._forward(tile)[0, 0, 0, 0].item()
        return (time.perf_counter() - start) / side**2

    @property
    def overlap(self) -> int:
        return self.geometry.overlap

    @property
    def exact(self) -> bool:
        return self.geometry.exact

    @property
    def reach(self) -> int:
        return self.geometry.reach

    @property
    def align(self) -> int:
        return self.geometry.align

    @property
    def pixel_bytes(self) -> int:
        return self.geometry.pixel_bytes

    def padded(self, side: int) -> int:
        """The least side of at least `side` pixels that the network takes."""
        return math.ceil(max(side, self._minimum) / self._multiple) * self._multiple

    def open(self, height: int, band_rows: int, *, as_bytes: bool = False) -> Stream:
        """Begin a column of `height` rows in bands of `band_rows`; the last one may be lower.

        as_bytes: the result may be in uint8, as files have it.
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

    def _geometry_of(self, reach: ReceptiveField, pixel_bytes: int) -> TileGeometry:
        radius, align = reach.radius, reach.period
        exact = radius is not None and radius <= LARGEST_RADIUS
        # A tile must not be smaller than the least that the network takes.
        wanted = max(radius if exact and radius is not None else LARGEST_RADIUS, self._minimum)
        overlap = math.ceil(wanted / align) * align
        return TileGeometry(overlap, exact, 2 * overlap, align, pixel_bytes)

    def _find_geometry(self) -> TileGeometry:
        """The geometry that is kept of the network's file; otherwise measure it and keep it."""
        if self._geometry is not None:  # another job was faster
            return self._geometry
        known = None if self.probe_cache is None else self.probe_cache.find().tiles
        if known is not None:
            return self._geometry_of(ReceptiveField(known.radius, known.period), known.pixel_bytes)
        reach, pixel_bytes = self._probe(), self._measure_pixel_bytes()
        if self.probe_cache is not None:
            self.probe_cache.keep_tiles(reach, pixel_bytes)
        return self._geometry_of(reach, pixel_bytes)

    def _probe(self) -> ReceptiveField:
        descriptor = self._descriptor
        windows = stated_windows(descriptor.model)
        if has_many_windows(descriptor.model):
            return looking_far(self._multiple, windows)
        if self.dtype != torch.float32:
            # In half precision small effects of far pixels are lost in rounding.
            descriptor = deepcopy(descriptor).float()
        return probe(
            lambda picture: self._called(descriptor, picture.clone()),
            channels=self.channels,
            scale=self.scale,
            multiple=self._multiple,
            windows=windows,
            device=self.device,
        )

    def _measure_pixel_bytes(self) -> int:
        side = self.padded(_SAMPLE_SIDE)
        shape = (1, self.channels, side, side)
        peak_bytes = None
        if self.dtype == torch.float32 and all(layer.is_padded for layer in self._layers):
            peak_bytes = footprint_by_shapes(self._descriptor, shape)
        if peak_bytes is None:
            for layer in self._layers:  # their memory is no tile's
                layer.lay_out()
            with torch.inference_mode(), Footprint() as footprint:
                self._forward(torch.zeros(shape, device=self.device))
            peak_bytes = footprint.peak_bytes
        return math.ceil(peak_bytes / side**2)

    def _called(self, network: Callable[[Tensor], Tensor], picture: Tensor) -> Tensor:
        """Not every set of sizes that an architecture can be built with also runs, or enlarges by
        the factor that spandrel finds. Raises `JobError`."""
        height, width = picture.shape[2:]
        try:
            result = network(picture)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise JobError(
                ErrorCode.INVALID_JOB,
                f"the model ({self.architecture}) failed on {width}x{height} pixels: choose "
                f"another one; it said: {str(error).splitlines()[0] if str(error) else error!r}",
            ) from error
        given = (result.shape[2], result.shape[3])
        if given != (height * self.scale, width * self.scale):
            raise JobError(
                ErrorCode.INVALID_JOB,
                f"the model ({self.architecture}) made {given[1]}x{given[0]} of {width}x{height} "
                f"pixels, and its scale should be {self.scale}: choose another one",
            )
        return result

    def _forward(self, tile: Tensor) -> Tensor:
        if self._graph is not None:
            return self._graph.whole(tile)
        # Always a copy, because some architectures write into their input.
        tile = tile.to(self.dtype, memory_format=torch.channels_last, copy=True)
        # Many architectures create masks and positions in fp32, and multiply them with the rest.
        half = self.dtype != torch.float32
        # They create them in each call, on the processor unless another device is given. Then the
        # host waits for the card with each mask that is copied there.
        on_processor = self.device.type == "cpu"
        where = nullcontext() if on_processor else self.device
        is_large = on_processor and tile.shape[2] * tile.shape[3] > _LARGE_TILE_PIXELS
        memory = reusing_large_blocks() if is_large else nullcontext()
        half_precision = torch.autocast(self.device.type, self.dtype, enabled=half)
        with memory, where, masks_of_a_tile(), CompiledCopies(), FusedAttention(), half_precision:
            # One picture at a time: not every architecture takes a batch.
            parts = [
                self._called(self._compiled, tile[index : index + 1]) for index in range(len(tile))
            ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
