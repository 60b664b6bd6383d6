"""One picture in the network: as many passes as its size needs, and its progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from upscaled_imaging.alphabounds import AlphaBounds
from upscaled_imaging.dimensions import Plan
from upscaled_imaging.read import Source
from upscaled_models.device.precision import NAMES
from upscaled_models.engine import Context
from upscaled_models.esrgan.network import Network
from upscaled_models.esrgan.pixels import to_bands, to_planes, to_rows
from upscaled_models.esrgan.readahead import read_ahead
from upscaled_models.esrgan.stage import Stage
from upscaled_models.esrgan.tile import choose_tile, rows_fit
from upscaled_models.picture import Enlargement, RowBlocks
from upscaled_protocol.messages import Size

# If the last enlargement is smaller than this, it is resampled: another pass through the network
# would take many times as long, and the difference cannot be seen.
_NEGLIGIBLE = 1.03
# Rows that are read at once if there is no network, which would ask for a certain number.
_READ_ROWS = 64
# A tile of the largest networks on a slow processor.
_TILE_BUDGET_S = 300.0


class EsrganEnlargement(Enlargement):
    """Takes the source's rows and gives enlarged ones; the host of its stages.

    memory_bytes: the most memory that a tile may take. free_memory: called after memory ran out.
    full_precision: loads the same network in float32.
    """

    def __init__(
        self,
        network: Network,
        source: Source,
        plan: Plan,
        *,
        tile_size: int | None,
        context: Context,
        memory_bytes: int,
        free_memory: Callable[[], None],
        full_precision: Callable[[], Network],
    ) -> None:
        self.device = str(network.device)
        self.in_turns = network.device.type == "cpu"
        self.bits = source.bits
        self._bands: Iterable[np.ndarray] = ()
        # Rows that the encoder has taken, and how long the job waited for it.
        self._taken_rows = 0
        self._taken_s = 0.0
        self._started_at = 0.0
        self._network = network
        self._source = source
        self._context = context
        self._free_memory = free_memory
        self._load_full_precision = full_precision
        self._stages: list[Stage] = []
        # The source pixels of each stage, in proportion to its work.
        self._work: list[int] = []
        colours = source.bands - source.has_alpha
        planes = (colours if network.channels == 1 else 1) + source.has_alpha
        # The last stage can round its pixels to the file's bytes if no band has to be changed.
        as_bytes = source.bits == 8 and source.bands == network.channels
        width, height = source.width, source.height

        def is_too_small(scale: int = 1) -> bool:
            scaled = plan.scaled
            larger = max(scaled.width / (width * scale), scaled.height / (height * scale))
            return larger > _NEGLIGIBLE

        sizes = []
        while is_too_small():
            sizes.append((width, height))
            width, height = width * network.scale, height * network.scale
        # All passes run at the same time.
        memory_bytes //= max(len(sizes), 1)
        for number, (pass_width, pass_height) in enumerate(sizes, 1):
            size: dict[str, int] = {"width": pass_width, "planes": planes}
            gives_way = network.by_rows and not rows_fit(network, memory_bytes=memory_bytes, **size)
            if gives_way:
                network = network.in_tiles()
            size["height"] = pass_height
            tile = choose_tile(network, tile_size=tile_size, memory_bytes=memory_bytes, **size)
            if gives_way:
                context.warn(
                    f"{pass_width} px are too wide to be computed by rows in "
                    f"{memory_bytes / 1e9:.3g} GB of memory: the picture was computed in tiles of "
                    f"{tile.width}x{tile.rows} px, which takes longer"
                )
            whole = as_bytes and number == len(sizes)
            stage = Stage(network, pass_width, pass_height, tile, self, as_bytes=whole)
            self._stages.append(stage)
            self._work.append(pass_width * pass_height)
        self.size = Size(width=width, height=height)
        self._alpha = AlphaBounds(source.height, width // source.width)

    @property
    def precision(self) -> str:
        """What the network computes in; float32 after half precision failed."""
        return NAMES[self._network.dtype]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read the source ahead, in a thread of its own, until the context is left."""
        with read_ahead(self.read(), self._context.check_cancelled) as self._bands:
            yield

    def rows(self) -> RowBlocks:
        """The enlarged rows; `reading` comes before."""
        return self.upscale(self._bands)

    def read(self) -> Iterator[np.ndarray]:
        """The source's rows, in bands as the first stage takes them."""
        rows = self._stages[0].tile.rows if self._stages else _READ_ROWS
        while self._source.rows_left:
            with self._context.phase("decode"):
                band = self._source.rows(rows)
            yield band

    def upscale(self, bands: Iterable[np.ndarray]) -> RowBlocks:
        """Bands of the source, (h, W, C), to bands of the enlarged picture, in the same format."""
        if not self._stages:
            yield from bands
            return
        # The time left is computed from here on, because the job waited for the device before.
        self._context.progress(0, "upscale", budget_s=_TILE_BUDGET_S)
        self._started_at = time.perf_counter()
        results = self._planes(bands)
        for stage in self._stages:
            results = stage.run(planes.float().clamp(0, 1) for planes in results)
        while True:
            with self._context.phase("inference"):
                planes = next(results, None)
                if planes is None:
                    return
                rows = self._rows(planes)
                # The encoder may keep the rows for a while: free the planes before.
                del planes
            given = time.perf_counter()
            yield rows
            self._taken_s += time.perf_counter() - given
            self._taken_rows += len(rows)

    def tile_done(self) -> None:
        """Report progress to the worker. Raises `JobError` (cancelled)."""
        done = sum(stage.tiles_done for stage in self._stages)
        total = done + sum(stage.tiles_left for stage in self._stages)
        self._context.progress(
            100 * self._share_done(),
            "upscale",
            done=done,
            total=total,
            budget_s=_TILE_BUDGET_S,
            tail_s=self.tail_s,
        )

    def _share_done(self) -> float:
        """The share of the time that the network and the encoder need in turns."""
        work = sum(
            pixels * stage.share_done
            for stage, pixels in zip(self._stages, self._work, strict=True)
        )
        computed = work / sum(self._work)
        network_s = time.perf_counter() - self._started_at - self._taken_s
        if not self._taken_rows or network_s <= 0:
            return computed
        taken = self._taken_rows / self.size.height
        # The encoder's time for the whole picture, as a multiple of the network's.
        weight = self._taken_s / taken / (network_s / computed)
        return (computed + weight * taken) / (1 + weight)

    def make_room(self) -> None:
        """Free memory after it ran out."""
        self._context.warn("memory ran out: the picture was finished in smaller tiles")
        self._free_memory()

    def full_precision(self) -> Network:
        """The network in float32, after half precision failed."""
        if self._network.dtype != torch.float32:
            self._context.warn("half precision failed with this model: fp32 was used")
            self._network = self._load_full_precision()
        return self._network

    def _planes(self, bands: Iterable[np.ndarray]) -> Iterator[Tensor]:
        for band in bands:
            if self._source.has_alpha:
                self._alpha.push(band[:, :, -1])
            yield to_planes(band, self._network.channels, self._network.device)

    def _rows(self, planes: Tensor) -> np.ndarray:
        if planes.dtype == torch.uint8:
            return to_rows(planes, 8)
        picture = to_bands(planes, self._source.bands)
        if self._source.has_alpha:
            low, high = (
                to_planes(bound[:, :, None], 1, picture.device)
                for bound in self._alpha.take(picture.shape[2])
            )
            alpha = torch.clamp(picture[:, -1:], low, high)
            picture = torch.cat((picture[:, :-1], alpha), 1)
        return to_rows(picture, self._source.bits)
