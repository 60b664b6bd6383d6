"""How a picture is cut: columns, tile sizes, and what a network is found to look at."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tiny_networks import CPU, compact, network, random_picture, rrdb
from upscaled_models.esrgan.columns import cut_columns
from upscaled_models.esrgan.network import Network
from upscaled_models.esrgan.receptive import LARGEST_RADIUS, Reach, probe
from upscaled_models.esrgan.tile import Tile, choose_tile


@given(
    width=st.integers(1, 5000),
    units=st.integers(1, 300),
    align=st.sampled_from([1, 2, 8, 16]),
    overlap_units=st.integers(0, 8),
)
def test_columns_cover_the_width_once_and_see_their_neighbours(
    width: int, units: int, align: int, overlap_units: int
) -> None:
    overlap = overlap_units * align
    columns = cut_columns(width, units * align, overlap, align)
    assert columns[0].start == 0
    assert columns[-1].stop == width
    for before, after in pairwise(columns):
        assert before.stop == after.start
        assert after.start % align == 0
        assert after.left % align == 0
    for column in columns:
        assert 0 < column.stop - column.start <= units * align
        assert column.left == max(column.start - overlap, 0)
        assert column.right == min(column.stop + overlap, width)
    sides = [column.stop - column.start for column in columns]
    assert max(sides) - min(sides) <= 2 * align


def tile_for(small: Network, width: int, height: int, **given: Any) -> Tile:
    wanted = {"planes": 1, "tile_size": None, "memory_bytes": 8 * 2**30} | given
    return choose_tile(small, width=width, height=height, **wanted)


@pytest.fixture(scope="module")
def by_rows() -> Network:
    return network(compact())


@pytest.fixture(scope="module")
def deep() -> Network:
    return network(rrdb(blocks=3))


@pytest.fixture(scope="module")
def by_tiles() -> Network:
    from spandrel.architectures.SAFMN import SAFMN

    torch.manual_seed(0)
    return network(SAFMN(dim=8, n_blocks=2).eval())


def test_by_rows_a_band_spans_the_picture(by_rows: Network) -> None:
    assert tile_for(by_rows, 640, 448) == Tile(640, 15)
    assert tile_for(by_rows, 30_000, 448) == Tile(30_000, 4)
    assert tile_for(by_rows, 10, 4000) == Tile(10, 1000)
    assert tile_for(by_rows, 10, 40) == Tile(10, 40)


def test_a_tile_size_is_an_upper_bound(by_rows: Network, by_tiles: Network) -> None:
    assert tile_for(by_rows, 640, 448, tile_size=100) == Tile(100, 100)
    assert tile_for(by_rows, 640, 448, tile_size=2000) == Tile(640, 15)
    # Of the windows' size, which is 8.
    assert tile_for(by_tiles, 640, 448, tile_size=100) == Tile(96, 96)


def test_by_tiles_a_small_picture_is_one_tile(by_tiles: Network) -> None:
    assert tile_for(by_tiles, 50, 101) == Tile(56, 104)


def test_a_picture_too_wide_for_memory_is_cut_into_columns(deep: Network) -> None:
    for gigabytes in (0.01, 0.1, 1.0):
        memory = int(gigabytes * 2**30)
        tile = tile_for(deep, 100_000, 1000, memory_bytes=memory)
        assert tile.width * deep.column_bytes <= memory
    assert tile.width < 100_000


def test_a_batch_gets_smaller_tiles(by_tiles: Network) -> None:
    memory = 400 * 400 * by_tiles.pixel_bytes
    one = tile_for(by_tiles, 3000, 3000, memory_bytes=memory)
    four = tile_for(by_tiles, 3000, 3000, memory_bytes=memory, planes=4)
    assert four.width < one.width <= 400 - 2 * by_tiles.overlap


def test_the_least_tile_is_chosen_where_nothing_fits(deep: Network, by_tiles: Network) -> None:
    assert tile_for(deep, 1000, 1000, memory_bytes=1) == Tile(32, 4)
    assert tile_for(by_tiles, 1000, 1000, memory_bytes=1) == Tile(32, 32)


def test_a_network_that_tiles_by_itself_gets_the_whole_picture(by_tiles: Network) -> None:
    from upscaled_models.esrgan.architectures import ModelTiling

    usual, by_tiles.tiling = by_tiles.tiling, ModelTiling.INTERNAL
    whole = tile_for(by_tiles, 1000, 2000)
    by_tiles.tiling = ModelTiling.DISCOURAGED
    larger = tile_for(by_tiles, 1000, 2000)
    by_tiles.tiling = usual
    assert whole == Tile(1000, 2000)
    assert larger.width == 2 * tile_for(by_tiles, 1000, 2000).width


def test_memory_of_a_band_is_counted_as_it_is(by_rows: Network, deep: Network) -> None:
    """What the tile's size is chosen by is what a stream really takes, within a factor of two."""
    from upscaled_models.esrgan.footprint import Footprint

    for small in (by_rows, deep):
        stream = small.open(400, 40)
        with torch.inference_mode():
            for _ in range(6):
                stream.feed(random_picture(40, 100))
            with Footprint() as footprint:
                stream.feed(random_picture(40, 100))
        assert 0.4 < footprint.peak_bytes / (40 * 100 * small.pixel_bytes) < 2


class Looking(nn.Module):
    """Depends on pixels up to `radius` away, or on windows, or on everything."""

    def __init__(self, radius: int, window: int = 1, everywhere: bool = False) -> None:
        super().__init__()
        self.mean = nn.AvgPool2d(2 * radius + 1, 1, radius)
        self.window = window
        self.everywhere = everywhere

    def forward(self, picture: Tensor) -> Tensor:
        result: Tensor = self.mean(picture)
        if self.window > 1:
            pooled = nn.functional.avg_pool2d(result, self.window)
            result = result + nn.functional.interpolate(pooled, scale_factor=self.window)
        if self.everywhere:
            result = result + picture.mean()
        return nn.functional.interpolate(result, scale_factor=2)


def reach(model: nn.Module, multiple: int = 1) -> Reach:
    return probe(model, channels=3, scale=2, multiple=multiple, device=CPU)


@pytest.mark.parametrize("radius", [0, 1, 7, 33, LARGEST_RADIUS])
def test_the_radius_is_found_to_the_pixel(radius: int) -> None:
    assert reach(Looking(radius)) == Reach(radius, 1)


@pytest.mark.parametrize("window", [2, 8, 16, 32])
def test_windows_are_found_with_their_farthest_corner(window: int) -> None:
    # The least that is right: a pixel at one edge of a window, and 3 beyond the other.
    least = 3 + window - 1
    found = reach(Looking(3, window), multiple=window)
    assert found.period == window
    assert found.radius is not None
    assert least <= found.radius <= least + window


def test_farther_than_a_tile_may_see_is_everywhere() -> None:
    assert reach(Looking(LARGEST_RADIUS + 1)).radius is None
    assert reach(Looking(1, everywhere=True)).radius is None
    assert reach(Looking(1, window=8, everywhere=True), multiple=8) == Reach(None, 8)


def test_a_network_that_looks_down_farther_than_across_is_found() -> None:
    class Tall(nn.Module):
        def forward(self, picture: Tensor) -> Tensor:
            shifted = nn.functional.pad(picture, (0, 0, 20, 0))[:, :, :-20]
            return nn.functional.interpolate(shifted, scale_factor=2)

    assert reach(Tall()) == Reach(20, 1)
