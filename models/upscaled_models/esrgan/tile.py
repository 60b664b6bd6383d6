"""Chooses the size of a tile: the fastest one that fits into memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from upscaled_models.esrgan.architectures import ModelTiling
from upscaled_models.esrgan.network import Network
from upscaled_models.tiling import blend_margin

# Pixels of a band; more if they take less memory than `_BAND_BYTES`. The fixed cost per operation
# and band must be small beside the arithmetic, of which a small network has little. On a processor
# a band must also be so large that threads rarely wait for each other. On a card the cost is the
# host's: bands of 130,000 pixels took small networks a third to two thirds longer. In lower bands
# more of the picture is decoded and encoded meanwhile.
_BAND_PIXELS = {"cpu": 40_000, "cuda": 400_000}
_BAND_BYTES = 40_000_000
# The same for a network whose lag has so many pixels: its first rows come late anyway, and on an
# accelerator each band copies the rows in front of every convolution.
_LATE_LAG_PIXELS = 130_000
_LATE_BAND_PIXELS = {"cpu": 0, "cuda": 500_000}
# The same on a processor, in float32, for networks of dense blocks, which are later than others. In
# larger bands RRDB's blocks leave the caches: it takes up to a sixth longer, and twice the memory.
_DEEP_BAND_PIXELS = 15_000
_DEEP_LAG = 100
# Such a network computes a picture of up to so many pixels at once, because nothing is copied then.
# Apple's kernels allow less.
_WHOLE_PIXELS = {"cpu": 0, "mps": 0, "cuda": 2_080_000}
# The most values of a tensor: less than 2^31 with the rows of a halo. Kernels for more are slow or
# missing. With 64 channels at four times each side, a tensor of 2.08 million pixels has as many.
_MOST_VALUES = 2_130_000_000
# Side of a tile if a network does not run by rows. In a larger tile the overlap costs less; but it
# takes long on a processor, and a job can only be cancelled between two tiles. A picture up to the
# second side is not cut. Both are doubled for networks that are better not tiled.
_TILE_SIDE = {"cpu": 256, "cuda": 512}
_WHOLE_SIDE = {"cpu": 320, "cuda": 640}
# Three times the memory per pixel of HAT-L, which took the most of all that were measured.
_MOST_PIXEL_BYTES = 128 * 1024
_LEAST_SIDE = 32
_LEAST_ROWS = 4
# Copies of a band's result, in float32, while it is put together, rounded and encoded.
_RESULT_COPIES = 3


@dataclass(frozen=True)
class Tile:
    """Source pixels that are computed at once, without the overlap."""

    width: int
    rows: int


def taken_bytes(network: Network, tile: Tile, *, width: int, height: int, planes: int) -> int:
    """Memory that a picture of `width` x `height` takes in such tiles: for the tile in hand, for
    the rows that wait between two bands, and for a band's result as wide as the picture.
    """
    whole = Tile(_whole(width, network), _whole(height, network))
    if network.by_rows:
        pixel_bytes = network.pixel_bytes + _result_bytes(network)
        # The rows of a tile beyond the picture are time for the lag, and hold nothing.
        rows = min(tile.rows, whole.rows)
        return planes * whole.width * (network.column_bytes + rows * pixel_bytes)
    seen = Tile(
        min(tile.width + 2 * network.overlap, whole.width),
        min(tile.rows + 2 * network.overlap, whole.rows),
    )
    # Each column keeps the rows that it sees, which its neighbours keep too, and the rows that are
    # blended into the next tile. The last tile computes the rows below it, which others only see.
    columns = math.ceil(whole.width / tile.width) * seen.width
    blended = 2 * blend_margin(tile.rows, network.overlap, exact=network.exact)
    held = 2 * seen.rows + network.scale**2 * min(blended, seen.rows)
    held_bytes = columns * held * network.channels * torch.float32.itemsize
    computed_bytes = seen.width * seen.rows * network.pixel_bytes
    band_bytes = whole.width * min(tile.rows + network.overlap, whole.rows) * _result_bytes(network)
    return planes * (computed_bytes + held_bytes + band_bytes)


def rows_fit(network: Network, *, width: int, planes: int, memory_bytes: int) -> bool:
    """True if there is memory for a picture by rows: for the lowest band, and for the rows that
    wait between two bands, which lower bands do not reduce."""
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

    Its sides are multiples of the network's `align`, and no longer than the picture, padded as the
    network needs it. A side that is no longer than a tile with its overlap is not cut: that takes
    no more memory, and less time. If a small picture certainly fits into memory, the network is not
    probed. By rows a tile also has room for the network's `lag`, so that a small picture is
    computed at once, to its last row.

    tile_size: the longest side of a tile, if it is not below `align`. By rows, a band has as many
    pixels as such a tile and is as wide as the picture, because to cut it would save nothing. None:
    the choice goes by speed and memory.
    memory_bytes: how much may be used. If even the smallest tile needs more, it is chosen.
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
    """The tile with one side shortened by a quarter: the side that saves more memory. The tile
    itself if neither saves any, because more columns hold more rows between them."""

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
    most = free // (planes * (network.pixel_bytes + _result_bytes(network)))
    most = min(most, _MOST_VALUES // (planes * network.pixel_values))
    lag = _up(network.lag, network)
    if tile_size is not None:
        pixels = min(tile_size**2, most)
        rows = max(_down(pixels // whole.width, network), _up(1, network))
        return Tile(whole.width, min(rows, whole.rows + lag))
    pixels = max(_preferred(_BAND_PIXELS, network), _BAND_BYTES // network.pixel_bytes)
    if network.device.type == "cpu" and network.dtype == torch.float32 and network.lag > _DEEP_LAG:
        pixels = _DEEP_BAND_PIXELS
    if network.lag * whole.width > _LATE_LAG_PIXELS:
        pixels = max(pixels, _preferred(_LATE_BAND_PIXELS, network))
        every = whole.width * whole.rows
        if planes * every <= _preferred(_WHOLE_PIXELS, network) and every <= most:
            pixels = max(pixels, every)
    rows = max(_down(min(pixels, most) // whole.width, network), _up(_LEAST_ROWS, network))
    return Tile(whole.width, whole.rows + lag if rows >= whole.rows else rows)


def _result_bytes(network: Network) -> int:
    """Memory of a band's result, per pixel of its source."""
    return _RESULT_COPIES * network.channels * torch.float32.itemsize * network.scale**2


def _preferred(choices: dict[str, int], network: Network) -> int:
    return choices.get(network.device.type, choices["cuda"])


def _down(side: int, network: Network) -> int:
    return max(side // network.align, 1) * network.align


def _up(side: int, network: Network) -> int:
    return math.ceil(side / network.align) * network.align


def _whole(side: int, network: Network) -> int:
    return _up(network.padded(side), network)
