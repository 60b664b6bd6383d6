"""How large tiles are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_networks import compact, network, random_picture, rrdb
from upscaled_models.esrgan.architectures import ModelTiling
from upscaled_models.esrgan.network import Network
from upscaled_models.esrgan.pixels import to_rows
from upscaled_models.esrgan.stage import Stage
from upscaled_models.esrgan.tile import Tile, choose_tile, rows_fit, taken_bytes


class RecordingHost:
    """The job that a stage is part of."""

    def tile_done(self) -> None: ...

    def make_room(self) -> None: ...

    def full_precision(self, failed: Network) -> Network:
        raise NotImplementedError


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


def test_by_rows_a_band_spans_the_picture(deep: Network) -> None:
    assert tile_for(deep, 640, 448) == Tile(640, 60)
    assert tile_for(deep, 30_000, 448) == Tile(30_000, 4)
    # Its sides are multiples of four rows and columns, as compiled convolutions compute them.
    assert tile_for(deep, 10, 5000) == Tile(12, 3332)
    assert tile_for(deep, 10, 40) == Tile(12, 40 + math.ceil(deep.lag / 4) * 4)


def test_a_small_network_has_larger_bands(by_rows: Network) -> None:
    band = tile_for(by_rows, 640, 4480)
    assert band.width == 640
    assert 62 < band.rows <= 40_000_000 / by_rows.pixel_bytes / 640 < band.rows + 1


def test_dense_blocks_in_float32_get_bands_that_stay_in_the_caches() -> None:
    rrdb = replace(on_a_card(349), device=torch.device("cpu"), pixel_bytes=12_000)
    assert tile_for(rrdb, 640, 4480) == Tile(640, 23)
    assert tile_for(replace(rrdb, dtype=torch.bfloat16), 640, 4480) == Tile(640, 62)
    assert tile_for(replace(rrdb, lag=36), 3000, 4480) == Tile(3000, 13)


def on_a_card(lag: int) -> Any:
    return Described(
        by_rows=True,
        align=1,
        overlap_units=64,
        lag=lag,
        pixel_bytes=4000,
        column_bytes=400_000,
        minimum=1,
        tiling=ModelTiling.SUPPORTED,
        device=torch.device("cuda"),
    )


def test_on_a_card_a_network_with_a_long_lag_gets_the_whole_picture() -> None:
    late, much = on_a_card(350), 2**37
    assert tile_for(late, 1920, 1080, memory_bytes=much) == Tile(1920, 1080 + 350)
    assert tile_for(late, 1000, 1000, memory_bytes=much) == Tile(1000, 1000 + 350)
    # Its rows would come late in any band: if the picture does not fit, bands are large.
    assert tile_for(late, 1920, 1080, memory_bytes=2**33) == Tile(1920, 260)
    assert tile_for(late, 4000, 3000, memory_bytes=much) == Tile(4000, 125)
    # A picture with alpha is two.
    assert tile_for(late, 1920, 1080, planes=2, memory_bytes=much) == Tile(1920, 260)


def test_on_a_card_a_network_with_a_short_lag_gets_bands() -> None:
    """So that the picture is decoded and encoded meanwhile."""
    assert tile_for(on_a_card(18), 1920, 1080, memory_bytes=2**37) == Tile(1920, 208)


def test_no_tensor_has_more_values_than_a_kernel_takes() -> None:
    """Of 64 channels at eight times each side, in the picture at once or in bands."""
    for lag, height in ((350, 1000), (350, 10_000), (18, 1000)):
        wide = replace(on_a_card(lag), scale=8, pixel_values=64 * 8**2)
        band = tile_for(wide, 1000, height, memory_bytes=2**40)
        assert band.rows >= 130
        assert band.width * min(band.rows, height) * wide.pixel_values < 2**31


def test_a_tile_size_is_an_upper_bound(by_rows: Network, by_tiles: Network) -> None:
    # By rows, of the pixels in a tile.
    assert tile_for(by_rows, 640, 448, tile_size=100) == Tile(640, 15)
    assert tile_for(by_rows, 640, 448, tile_size=2000) == Tile(640, 448 + by_rows.lag)
    assert tile_for(by_rows, 640, 448, tile_size=20) == Tile(640, 1)
    # Of the windows' size, which is 8.
    assert tile_for(by_tiles, 640, 448, tile_size=100) == Tile(96, 96)
    assert tile_for(by_tiles, 640, 448, tile_size=20) == Tile(16, 16)


def test_by_tiles_a_small_picture_is_one_tile(by_tiles: Network) -> None:
    assert tile_for(by_tiles, 50, 101) == Tile(56, 104)


def test_a_side_that_a_tile_sees_anyway_is_not_cut(by_tiles: Network) -> None:
    seen = max(256 + 2 * by_tiles.overlap, 320)
    assert tile_for(by_tiles, seen, seen) == Tile(seen, seen)
    assert tile_for(by_tiles, seen + 1, 64) == Tile(256, 64)
    # A given size is the longest side all the same.
    assert tile_for(by_tiles, seen, seen, tile_size=192) == Tile(192, 192)


def test_a_network_that_tiles_by_itself_gets_the_whole_picture(by_tiles: Network) -> None:
    usual, by_tiles.tiling = by_tiles.tiling, ModelTiling.INTERNAL
    whole = tile_for(by_tiles, 1000, 2000)
    given = tile_for(by_tiles, 1000, 2000, tile_size=64)
    by_tiles.tiling = ModelTiling.DISCOURAGED
    larger = tile_for(by_tiles, 1000, 2000)
    by_tiles.tiling = usual
    assert whole == Tile(1000, 2000)
    assert given == Tile(64, 64)
    assert larger.width == 2 * tile_for(by_tiles, 1000, 2000).width


@dataclass
class Described:
    """What the choice of a tile asks of a network."""

    by_rows: bool
    align: int
    overlap_units: int
    lag: int
    pixel_bytes: int
    column_bytes: int
    minimum: int
    tiling: ModelTiling
    device: torch.device
    scale: int = 4
    channels: int = 3
    pixel_values: int = 1024
    dtype: torch.dtype = torch.float32

    @property
    def overlap(self) -> int:
        return self.overlap_units * self.align

    def padded(self, side: int) -> int:
        return -(-max(side, self.minimum) // self.align) * self.align

    def whole(self, side: int) -> int:
        return self.padded(side)

    @property
    def whole_lag(self) -> int:
        return -(-self.lag // self.align) * self.align

    @property
    def exact(self) -> bool:
        return self.overlap_units % 2 == 0


described = st.builds(
    Described,
    by_rows=st.booleans(),
    align=st.sampled_from([1, 2, 8, 12]),
    overlap_units=st.integers(0, 32),
    lag=st.integers(0, 400),
    pixel_bytes=st.integers(1, 10_000),
    column_bytes=st.integers(0, 500_000),
    minimum=st.integers(1, 80),
    tiling=st.sampled_from([ModelTiling.SUPPORTED, ModelTiling.DISCOURAGED]),
    device=st.sampled_from([torch.device("cpu"), torch.device("cuda")]),
)
lengths = st.integers(1, 20_000)
wishes = st.none() | st.integers(1, 3000)
memories = st.integers(0, 2**36)


@settings(max_examples=400)
@given(described, lengths, lengths, st.integers(1, 4), wishes, memories)
def test_a_tile_fits_wherever_the_least_one_does(
    small: Any, width: int, height: int, planes: int, tile_size: int | None, memory: int
) -> None:
    given = {"planes": planes, "tile_size": tile_size}
    least = tile_for(small, width, height, memory_bytes=0, **given)
    chosen = tile_for(small, width, height, memory_bytes=memory, **given)
    size = {"width": width, "height": height, "planes": planes}
    if taken_bytes(small, least, **size) <= memory:
        assert taken_bytes(small, chosen, **size) <= memory
    else:
        assert chosen == least


@settings(max_examples=400)
@given(described, lengths, lengths, st.integers(1, 4), wishes, memories)
def test_a_tiles_sides_keep_to_their_bounds(
    small: Any, width: int, height: int, planes: int, tile_size: int | None, memory: int
) -> None:
    tile = tile_for(small, width, height, planes=planes, tile_size=tile_size, memory_bytes=memory)
    lag = small.whole_lag if small.by_rows else 0
    sides = ((tile.width, small.whole(width)), (tile.rows, small.whole(height) + lag))
    for side, whole in sides:
        assert side % small.align == 0
        assert side <= whole
        if not small.by_rows:
            # A side that a tile sees anyway is not cut.
            assert side <= max(tile_size or max(1024 + 2 * small.overlap, 1280), small.align)
            assert side >= min(32, whole, (tile_size or 32) - small.align + 1)
    if small.by_rows:
        assert tile.width == small.whole(width)
        if tile_size is None:
            assert tile.rows >= min(4, small.whole(height))
        else:
            assert tile.rows * tile.width <= max(tile_size**2, tile.width * small.align)


@settings(max_examples=400)
@given(described, lengths, lengths, st.integers(1, 4), wishes, memories, memories)
def test_more_memory_never_makes_a_smaller_tile(
    small: Any,
    width: int,
    height: int,
    planes: int,
    tile_size: int | None,
    memory: int,
    more: int,
) -> None:
    given = {"planes": planes, "tile_size": tile_size}
    before = tile_for(small, width, height, memory_bytes=memory, **given)
    after = tile_for(small, width, height, memory_bytes=memory + more, **given)
    assert after.width >= before.width
    assert after.rows >= before.rows
    larger_batch = tile_for(
        small, width, height, memory_bytes=memory, planes=planes + 1, tile_size=tile_size
    )
    assert larger_batch.rows <= before.rows


@given(described, lengths, lengths, st.integers(1, 4), memories)
def test_rows_are_held_only_if_they_fit_with_a_band(
    small: Any, width: int, height: int, planes: int, memory: int
) -> None:
    small.by_rows = True
    least = tile_for(small, width, height, planes=planes, memory_bytes=0)
    held = rows_fit(small, width=width, planes=planes, memory_bytes=memory)
    needed = taken_bytes(small, least, width=width, height=height, planes=planes)
    if held:
        assert needed <= memory
    elif small.padded(height) >= 4:
        assert memory < needed


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


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_wide_picture_takes_no_more_memory_than_it_may(by_rows: Network, share: float) -> None:
    from upscaled_models.esrgan.footprint import Footprint

    blended = by_rows.in_tiles()
    blended._geometry = replace(blended.geometry, overlap=16, reach=32, exact=False)
    width, height = 900, 100
    size = {"width": width, "height": height, "planes": 1}
    for small in (by_rows, by_rows.in_tiles(), blended):
        least, most = (
            taken_bytes(small, tile_for(small, width, height, memory_bytes=memory), **size)
            for memory in (0, 2**40)
        )
        budget = int(least + share * (most - least))
        tile = tile_for(small, width, height, memory_bytes=budget)
        stage = Stage(small, width, height, tile, RecordingHost(), as_bytes=True)
        bands = (random_picture(10, width) for _ in range(height // 10))
        with Footprint() as footprint:
            for rows in stage.run(bands):
                to_rows(rows, 8)
        assert 0.2 * budget < footprint.peak_bytes <= budget
