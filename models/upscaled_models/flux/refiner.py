"""Runs bands of a picture through autoencoder and transformer, in batches of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from upscaled_models.device.out_of_memory import is_out_of_memory
from upscaled_models.flux.autoencoder import Autoencoder
from upscaled_models.flux.sampling import NoiseField, denoise_tiles
from upscaled_models.flux.text import Embeddings
from upscaled_models.flux.tiles import tile_offsets, tile_side
from upscaled_models.flux.transformer import PATCH, Transformer
from upscaled_models.tiling import join
from upscaled_protocol.errors import ErrorCode, JobError

# The smallest tile that is tried when memory runs out. In smaller ones the model sees too little.
_LEAST_SIDE = 128
# Larger batches are not faster: a few tiles keep the device busy.
_LARGEST_BATCH = 8
# Memory of a tile's forward, in numbers per token and per number of the transformer's width: 17 at
# the peak, counted by torch at the real width, and some more for the allocator's losses.
_LIVE_NUMBERS = 24


class Host(Protocol):
    """What a refiner needs of the job that it is part of."""

    def check_cancelled(self) -> None:
        """Raise `JobError` (cancelled) if the job was cancelled."""

    def band_progress(self, done: int, total: int) -> None:
        """Report how many of the band's model calls were made. It may raise."""

    def make_room(self) -> None:
        """Free memory that no job uses: it ran out, and a smaller batch or tile is tried next."""


@dataclass(frozen=True)
class Request:
    """What a job asks of the model.

    levels: noise levels, one more than model calls.
    """

    embeddings: Embeddings
    levels: Sequence[float]
    guidance: float
    seed: int


class Refiner:
    """Image-to-image for one picture, in tiles of at most `side` x `side` pixels."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        transformer: Transformer,
        request: Request,
        *,
        tile_size: int,
        memory_bytes: int,
        host: Host,
    ) -> None:
        self.grid = autoencoder.factor * PATCH
        self.side = tile_side(tile_size, self.grid)
        self._autoencoder = autoencoder
        self._transformer = transformer
        self._request = request
        self._noise = NoiseField(request.seed, autoencoder.channels)
        self._host = host
        tokens = (self.side // self.grid) ** 2 + request.embeddings.sequence.shape[1]
        tile_bytes = tokens * transformer.width * transformer.dtype.itemsize * _LIVE_NUMBERS
        self.batch: int = max(min(memory_bytes // tile_bytes, _LARGEST_BATCH), 1)

    def refine(self, band: Tensor, top: int) -> Tensor:
        """Refine a band of the picture, (3, h, W), 0 to 1, whose upper edge is at row `top`. h, W
        and `top` are multiples of `grid`.

        If memory runs out, batches and then tiles become smaller for the rest of the picture.
        Raises `JobError` (out_of_memory, cancelled).
        """
        while True:
            try:
                return self._refine(band, top)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._take_smaller_tiles()

    def _refine(self, band: Tensor, top: int) -> Tensor:
        height, width = band.shape[1:]
        rows, columns = (tile_offsets(length, self.side, self.grid) for length in (height, width))
        places = [(y, x) for y in rows for x in columns]
        tiles: list[Tensor] = []
        while len(tiles) < len(places):
            left = len(places) - len(tiles)
            # Batches of nearly one size, because a small one takes nearly as long as a full one.
            batch = -(-left // -(-left // self.batch))
            try:
                tiles += self._batch(
                    band, top, places[len(tiles) : len(tiles) + batch], len(tiles), len(places)
                )
            except Exception as error:
                if batch == 1 or not is_out_of_memory(error):
                    raise
                self.batch = batch // 2
            else:
                continue
            # Outside of the handler, because the error's traceback holds the batch's tensors.
            self._host.make_room()
        lines = (
            join(tiles[index * len(columns) : (index + 1) * len(columns)], columns, 2)
            for index in range(len(rows))
        )
        return join(lines, rows, 1)

    def _batch(
        self, band: Tensor, top: int, places: Sequence[tuple[int, int]], done: int, total: int
    ) -> list[Tensor]:
        """Tiles at these places, (3, h, w) each, on the host."""
        request, factor = self._request, self._autoencoder.factor
        steps = len(request.levels) - 1
        latents, noise = [], []
        for y, x in places:
            # This also resets the stall clock after the first stage.
            self._host.band_progress(done * steps, total * steps)
            pixels = band[:, y : y + self.side, x : x + self.side]
            encoded = self._autoencoder.encode(pixels)
            latents.append(encoded)
            noise.append(self._noise.region((top + y) // factor, x // factor, *encoded.shape[1:]))

        def each_step(step: int) -> None:
            self._host.band_progress(done * steps + step * len(places), total * steps)

        refined = denoise_tiles(
            self._transformer,
            torch.stack(latents),
            torch.stack(noise),
            request.levels,
            guidance=request.guidance,
            embeddings=request.embeddings,
            each_step=each_step,
        )
        tiles = []
        for tile in refined:
            self._host.check_cancelled()
            pixels = self._autoencoder.decode(tile).cpu()
            if not pixels.isfinite().all():
                raise JobError(
                    ErrorCode.MODEL_CORRUPT,
                    "the model computes numbers that are no picture: its weights are damaged; "
                    "`upscaled models verify` finds which file is",
                )
            tiles.append(pixels)
        self._host.band_progress((done + len(places)) * steps, total * steps)
        return tiles

    def _take_smaller_tiles(self) -> None:
        if self.side <= _LEAST_SIDE:
            raise JobError(
                ErrorCode.OUT_OF_MEMORY,
                f"memory ran out even with tiles of {self.side} pixels: free some, or use a "
                "device with more",
            )
        self.side = tile_side(max(self.side // 2, _LEAST_SIDE), self.grid)
        self._host.make_room()
