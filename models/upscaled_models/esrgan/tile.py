"""How large a tile to compute at once: what is fastest, and fits into memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from upscaled_models.esrgan.architectures import ModelTiling
from upscaled_models.esrgan.network import Network
from upscaled_models.tiling import blend_margin

# Pixels of a band, and where they take less memory than that, as many as it has room for. On a
# processor: enough that threads seldom meet, and that what is done once an operation and band is
# little beside its arithmetic, which a small network has least of. An accelerator has to be busy
# while the next operation is launched.
_BAND_PIXELS = {"cpu": 40_000, "cuda": 500_000}
_BAND_BYTES = 40_000_000
# Side of a tile where a network does not run by rows: the overlap costs less in a larger one, but
# on a processor it takes long, and a job can only be cancelled between two. A picture that is only
# a little larger is not cut at all. Both are doubled for networks that are better not tiled.
_TILE_SIDE = {"cpu": 192, "cuda": 512}
_WHOLE_SIDE = {"cpu": 256, "cuda": 640}
# Three times what HAT-L takes for a pixel, the most of what was measured.
_MOST_PIXEL_BYTES = 128 * 1024
_LEAST_SIDE = 32
_LEAST_ROWS = 4
# Copies of a band's result, in float32, while it is put together, rounded and encoded.
_RESULT_COPIES = 3


@dataclass(frozen=True)
class Tile:
    """Source pixels computed at once, overlap not counted."""

    width: int
    rows: int


def taken_bytes(network: Network, tile: Tile, *, width: int, height: int, planes: int) -> int:
    """Memory of a picture of `width` x `height` on its way through the network in such tiles: what
    is computed at once, what waits between two bands, and a band's result as wide as the picture.
    """
    whole = Tile(_whole(width, network), _whole(height, network))
    if network.by_rows:
        pixel_bytes = network.pixel_bytes + _result_bytes(network)
        return planes * whole.width * (network.column_bytes + tile.rows * pixel_bytes)
    seen = Tile(
        min(tile.width + 2 * network.overlap, whole.width),
        min(tile.rows + 2 * network.overlap, whole.rows),
    )
    # Each column keeps the rows that it sees, which its neighbours keep too, and those that are
    # blended into the next tile. The last tile has the rows below it that others only see.
    columns = math.ceil(whole.width / tile.width) * seen.width
    blended = 2 * blend_margin(tile.rows, network.overlap, exact=network.exact)
    held = 2 * seen.rows + network.scale**2 * min(blended, seen.rows)
    held_bytes = columns * held * network.channels * torch.float32.itemsize
    computed_bytes = seen.width * seen.rows * network.pixel_bytes
    band_bytes = whole.width * min(tile.rows + network.overlap, whole.rows) * _result_bytes(network)
    return planes * (computed_bytes + held_bytes + band_bytes)


def rows_fit(network: Network, *, width: int, planes: int, memory_bytes: int) -> bool:
    """Whether there is memory for a picture by rows: for what waits between two bands, which no
    way of cutting makes less, and for the least band."""
    least = Tile(_whole(width, network), _up(_LEAST_ROWS, network))
    taken = taken_bytes(network, least, width=width, height=least.rows, planes=planes)
    return taken <= memory_bytes


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

    Its sides are multiples of the network's `align`, and no longer than the picture as the network
    takes it. A side of the picture that is no longer than a tile and its neighbours' overlap is not
    cut: it takes no more memory, and less time. If a small picture fits into memory in any case, it
    is not even asked how far the network looks. By rows a tile has room for the network's `lag`
    besides, so that a small picture is computed at once, to its last row.

    tile_size: the longest side of a tile, where that is not below `align`. By rows, what is
    computed at once has as many pixels as such a tile, and is as wide as the picture: cutting it
    would only cost. None leaves the choice to speed and memory.
    memory_bytes: what may be used. The least tile is chosen where even that does not fit.
    """
    if network.by_rows:
        whole = Tile(_whole(width, network), _whole(height, network))
        return _band(network, whole, planes, tile_size, memory_bytes)
    longest = 0
    if tile_size is None:
        whole = Tile(network.padded(width), network.padded(height))
        if network.tiling is ModelTiling.INTERNAL:
            return whole
        factor = 1 if network.tiling is ModelTiling.SUPPORTED else 2
        tile_size = factor * _preferred(_TILE_SIDE, network)
        longest = factor * _preferred(_WHOLE_SIDE, network)
        most_bytes = planes * whole.width * whole.rows * _MOST_PIXEL_BYTES
        if max(whole.width, whole.rows) <= longest and most_bytes <= memory_bytes:
            return whole
        longest = max(longest, _down(tile_size, network) + 2 * network.overlap)
    side = _down(tile_size, network)
    longest = max(longest, side)
    whole = Tile(_whole(width, network), _whole(height, network))
    tile = Tile(*(full if full <= longest else side for full in (whole.width, whole.rows)))
    while taken_bytes(network, tile, width=width, height=height, planes=planes) > memory_bytes:
        smaller = _smaller(network, tile, width, height)
        if smaller == tile:
            break
        tile = smaller
    return tile


def _smaller(network: Network, tile: Tile, width: int, height: int) -> Tile:
    """The tile, less a quarter of the side that it saves most memory to shorten; itself if that
    saves none: more columns hold more rows between them."""

    def shortened(side: int) -> int:
        return max(_down(side * 3 // 4, network), min(_up(_LEAST_SIDE, network), side))

    def taken(tile: Tile) -> int:
        return taken_bytes(network, tile, width=width, height=height, planes=1)

    choices = (Tile(shortened(tile.width), tile.rows), Tile(tile.width, shortened(tile.rows)))
    return min((tile, *choices), key=taken)


def _band(
    network: Network, whole: Tile, planes: int, tile_size: int | None, memory_bytes: int
) -> Tile:
    free = max(memory_bytes - planes * network.column_bytes * whole.width, 0)
    pixels = max(_preferred(_BAND_PIXELS, network), _BAND_BYTES // network.pixel_bytes)
    least = _LEAST_ROWS
    if tile_size is not None:
        pixels, least = tile_size**2, 1
    pixels = min(pixels, free // (planes * (network.pixel_bytes + _result_bytes(network))))
    rows = max(_down(pixels // whole.width, network), _up(least, network))
    return Tile(whole.width, min(rows, whole.rows + _up(network.lag, network)))


def _result_bytes(network: Network) -> int:
    """Of a band, for each pixel of its source."""
    return _RESULT_COPIES * network.channels * torch.float32.itemsize * network.scale**2


def _preferred(choices: dict[str, int], network: Network) -> int:
    return choices.get(network.device.type, choices["cuda"])


def _down(side: int, network: Network) -> int:
    return max(side // network.align, 1) * network.align


def _up(side: int, network: Network) -> int:
    return math.ceil(side / network.align) * network.align


def _whole(side: int, network: Network) -> int:
    return _up(network.padded(side), network)
