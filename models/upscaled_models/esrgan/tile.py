"""How large a tile to compute at once: what is fastest, and fits into memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from upscaled_models.esrgan.architectures import ModelTiling
from upscaled_models.esrgan.network import Network

# Pixels of a band: on a processor the layers' results then stay in its caches; an accelerator
# needs enough of them to be busy while the next operation is launched.
_BAND_PIXELS = {"cpu": 10_000, "cuda": 500_000}
# Side of a tile where a network does not run by rows: the overlap costs less in a larger one, but
# on a processor it takes long, and a job can only be cancelled between two. Doubled for networks
# that are better not tiled.
_TILE_SIDE = {"cpu": 192, "cuda": 512}
_LEAST_SIDE = 32
_LEAST_ROWS = 4


@dataclass(frozen=True)
class Tile:
    """Source pixels computed at once, overlap not counted."""

    width: int
    rows: int


def choose_tile(
    network: Network,
    *,
    width: int,
    height: int,
    planes: int,
    tile_size: int | None,
    memory_bytes: int,
) -> Tile:
    """The tile for a picture of `width` x `height` with a batch of `planes`.

    tile_size: the longest side to use; None leaves the choice to speed and memory.
    memory_bytes: what may be used. The least tile is chosen where even that does not fit.
    """
    pixels = max(memory_bytes // (planes * network.pixel_bytes), 1)
    whole_width, whole_height = _whole(width, network), _whole(height, network)
    if network.by_rows:
        columns = memory_bytes // (2 * planes * max(network.column_bytes, 1))
        side = min(max(columns, _LEAST_SIDE), tile_size or whole_width)
        tile_width = min(whole_width, _aligned(side, network))
        rows = min(_preferred(_BAND_PIXELS, network), pixels // 2) // tile_width
        rows = min(max(rows, _LEAST_ROWS), tile_size or whole_height)
        return Tile(tile_width, _aligned(rows, network))
    if tile_size is None and network.tiling is ModelTiling.INTERNAL:
        return Tile(whole_width, whole_height)
    side = _preferred(_TILE_SIDE, network)
    if network.tiling is not ModelTiling.SUPPORTED:
        side *= 2
    fitting = max(math.isqrt(pixels) - 2 * network.overlap, _LEAST_SIDE)
    side = _aligned(min(tile_size or side, fitting), network)
    if network.square:
        return Tile(side, side)
    return Tile(min(side, whole_width), min(side, whole_height))


def _preferred(choices: dict[str, int], network: Network) -> int:
    return choices.get(network.device.type, choices["cuda"])


def _aligned(side: int, network: Network) -> int:
    return max(side // network.align, 1) * network.align


def _whole(side: int, network: Network) -> int:
    return math.ceil(network.padded(side) / network.align) * network.align
