"""One network's part of a job: the passes of a picture through it, and the alpha beside it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from upscaled_imaging.alphabounds import AlphaBounds
from upscaled_imaging.rows import Picture
from upscaled_models.esrgan.network import Network
from upscaled_models.esrgan.pixels import to_bands, to_planes
from upscaled_models.esrgan.rows.buffer import RowBuffer
from upscaled_models.esrgan.stage import Stage
from upscaled_models.esrgan.tile import choose_tile, rows_fit
from upscaled_protocol.errors import ErrorCode, JobError


@dataclass(frozen=True)
class Loaded:
    """A network that a job holds. name: of its file. full_precision: loads it in float32."""

    name: str
    network: Network
    full_precision: Callable[[], Network]


class StepHost(Protocol):
    """What a step needs of the job that it is part of."""

    def tile_done(self) -> None:
        """Report progress. Raises `JobError` (cancelled) if the job was cancelled."""

    def make_room(self) -> None:
        """Free memory that no job uses."""

    def warn(self, text: str) -> None:
        """Add a sentence to the result's warnings."""


class Step:
    """Takes the bands of a picture, and gives the bands of what the network makes of it.

    A network of scale 1 leaves alpha as it is. Any other enlarges alpha as a gray picture of its
    own, which is held between the least and the greatest of the nine source pixels around it.

    passes: how often the network is run, each time on the result of the pass before.
    memory_bytes: the most memory that a tile of one pass may take.
    as_bytes: give uint8 if no band has to be changed after the network.
    """

    def __init__(
        self,
        loaded: Loaded,
        picture: Picture,
        passes: int,
        *,
        host: StepHost,
        tile_size: int | None,
        memory_bytes: int,
        as_bytes: bool,
    ) -> None:
        network = loaded.network
        self._loaded = loaded
        self._network = network
        self._host = host
        self._bands = picture.bands
        self._has_alpha = picture.has_alpha
        # Of the step's own picture; `_alpha_taken` counts its rows.
        self._alpha = RowBuffer()
        self._alpha_taken = 0
        colours = picture.bands - picture.has_alpha
        self._enlarges_alpha = picture.has_alpha and network.scale > 1
        planes = (colours if network.channels == 1 else 1) + self._enlarges_alpha
        as_bytes = as_bytes and picture.bands == network.channels
        self.stages: list[Stage] = []
        # What each stage computes, in proportion to its time.
        self._pixels: list[int] = []
        width, height = picture.width, picture.height
        for number in range(1, passes + 1):
            size: dict[str, int] = {"width": width, "planes": planes}
            gives_way = network.by_rows and not rows_fit(network, memory_bytes=memory_bytes, **size)
            if gives_way:
                network = network.in_tiles()
            size["height"] = height
            tile = choose_tile(network, tile_size=tile_size, memory_bytes=memory_bytes, **size)
            if gives_way:
                host.warn(
                    f"{width} px are too wide to be computed by rows in "
                    f"{memory_bytes / 1e9:.3g} GB of memory: the picture was computed in tiles of "
                    f"{tile.width}x{tile.rows} px, which takes longer"
                )
            is_last = number == passes
            # Without a circle of references; see `EsrganEnlargement`.
            me = weakref.proxy(self)
            stage = Stage(network, width, height, tile, me, as_bytes=as_bytes and is_last)
            self.stages.append(stage)
            self._pixels.append(stage.pixels)
            width, height = width * network.scale, height * network.scale
        self._bounds = AlphaBounds(picture.height, width // picture.width)

    @property
    def network(self) -> Network:
        """The network; in float32 after half precision failed."""
        return self._network

    @property
    def share_done(self) -> float:
        """Of the step's work, from 0 to 1."""
        done = sum(
            pixels * stage.share_done
            for stage, pixels in zip(self.stages, self._pixels, strict=True)
        )
        return done / sum(self._pixels)

    def expected_s(self) -> float:
        """Seconds that all of its work takes. The device must be the caller's."""
        return self._network.pixel_s * sum(self._pixels)

    def run(self, pictures: Iterable[Tensor]) -> Iterator[Tensor]:
        """Bands of the picture, (1, bands, h, W) in floats, of any heights, to bands of the result.

        They are in floats and not clamped, or in uint8. Raises what its stages raise.
        """
        results = self._planes(pictures)
        for stage in self.stages:
            results = stage.run(_bounded(results))
        # Not a loop with `yield`, which would hold the last band while the next is asked for.
        return map(self._picture, results)

    def tile_done(self) -> None:
        self._host.tile_done()

    def make_room(self) -> None:
        self._host.make_room()

    def full_precision(self, failed: Network) -> Network:
        """The network in float32, after half precision failed.

        Raises `JobError` (model_corrupt) if it failed in float32.
        """
        if failed.dtype == torch.float32:
            raise JobError(
                ErrorCode.MODEL_CORRUPT,
                f"{self._loaded.name} gave a picture that holds no numbers: fetch the file again, "
                "or choose another model",
            )
        if self._network.dtype != torch.float32:
            self._host.warn(f"half precision failed with {self._loaded.name}: fp32 was used")
            self._network = self._loaded.full_precision()
        return self._network

    def _planes(self, pictures: Iterable[Tensor]) -> Iterator[Tensor]:
        for picture in pictures:
            seen = picture
            if self._enlarges_alpha:
                self._bounds.push(picture[0, -1].cpu().numpy())
            elif self._has_alpha:
                self._alpha.push(picture[:, -1:])
                seen = picture[:, :-1]
            yield to_planes(seen, self._network.channels)

    def _picture(self, planes: Tensor) -> Tensor:
        if planes.dtype == torch.uint8:
            return planes
        if not self._has_alpha:
            return to_bands(planes, self._bands)
        if not self._enlarges_alpha:
            colours = to_bands(planes, self._bands - 1)
            first, last = self._alpha_taken, self._alpha_taken + colours.shape[2]
            alpha = self._alpha.take(first, last)
            self._alpha.drop_before(last)
            self._alpha_taken = last
            return torch.cat((colours.float(), alpha), 1)
        picture = to_bands(planes, self._bands)
        low, high = (
            torch.from_numpy(bound).to(picture.device)
            for bound in self._bounds.take(picture.shape[2])
        )
        return torch.cat((picture[:, :-1], torch.clamp(picture[:, -1:], low, high)), 1)


def _bounded(pictures: Iterable[Tensor]) -> Iterator[Tensor]:
    for picture in pictures:
        yield picture.float().clamp(0, 1)
