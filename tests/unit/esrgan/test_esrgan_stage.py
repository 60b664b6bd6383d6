"""A picture in tiles is the picture in one piece."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from running_stage import RecordingHost, upscaled
from tiny_networks import (
    DTYPES,
    compact,
    in_bands,
    network,
    psnr,
    random_picture,
    rrdb,
    smooth_picture,
    swinir,
)
from upscaled_models.esrgan.pixels import to_rows
from upscaled_models.esrgan.stage import Stage
from upscaled_models.esrgan.tile import Tile, choose_tile


@pytest.mark.parametrize("layers", [compact, rrdb])
def test_a_small_picture_is_computed_in_one_go(layers: Callable[[], nn.Module]) -> None:
    small = network(layers())
    tile = choose_tile(small, width=40, height=30, planes=1, tile_size=None, memory_bytes=2 * 2**30)
    picture = random_picture(30, 40)
    host = RecordingHost()
    once = upscaled(small, picture, tile, host)
    assert host.tiles_done == 1
    assert torch.equal(once, upscaled(small, picture, Tile(40, 7)))


@settings(max_examples=40)
@given(
    features=st.sampled_from([4, 8, 24, 64]),
    convolutions=st.integers(1, 5),
    scale=st.sampled_from([1, 2, 4]),
    height=st.integers(1, 60),
    # AMX rounds pictures of fewer than five columns differently in lower bands.
    width=st.integers(5, 130),
    rows=st.integers(1, 70),
    band_rows=st.integers(1, 70),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
def test_a_compact_network_gives_the_same_bits_at_any_tile_size(
    features: int,
    convolutions: int,
    scale: int,
    height: int,
    width: int,
    rows: int,
    band_rows: int,
    dtype: torch.dtype,
    seed: int,
) -> None:
    small = network(compact(features, convolutions, max(scale, 2), seed), dtype)
    picture = random_picture(height, width, seed=seed)
    tile = Tile(-(-width // small.align) * small.align, rows)
    assert torch.equal(
        upscaled(small, picture, tile, band_rows=band_rows), upscaled(small, picture)
    )


def test_the_whole_frame_is_what_the_module_itself_computes() -> None:
    model = compact(8, 3)
    picture = random_picture(150, 201)
    with torch.inference_mode():
        expected = model(picture)
    assert torch.equal(upscaled(network(model), picture, Tile(64, 40)), expected)


def test_of_compiled_convolutions_it_is_that_but_for_rounding() -> None:
    model = compact(16, 3)
    small = network(model)
    picture = random_picture(150, 201)
    with torch.inference_mode():
        expected = model(picture)
    whole = upscaled(small, picture)
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-6)
    assert torch.equal(upscaled(small, picture, Tile(204, 40)), whole)
    # Tiles beside each other, which only a lack of memory leads to, differ in the last place.
    torch.testing.assert_close(upscaled(small, picture, Tile(64, 40)), whole, rtol=0, atol=1e-6)


def test_a_batch_gives_what_its_pictures_give() -> None:
    small = network(compact())
    pictures = torch.cat([random_picture(40, 50, seed=seed) for seed in range(2)])
    together = upscaled(small, pictures, Tile(32, 8))
    for index in range(2):
        alone = upscaled(small, pictures[index : index + 1], Tile(32, 8))
        assert torch.equal(together[index : index + 1], alone)


def test_a_network_past_the_largest_overlap_is_blended_with_little_error() -> None:
    # Seven blocks look 105 pixels far, and tiles get 64 of them.
    deep = network(rrdb(features=6, blocks=7))
    assert deep.by_rows
    assert not deep.exact
    picture = smooth_picture(24, 230)
    error = psnr(upscaled(deep.in_tiles(), picture, Tile(96, 16)), upscaled(deep, picture))
    assert 60 <= error < 190


def test_rows_alone_need_no_blending() -> None:
    deep = network(rrdb(features=6, blocks=7))
    picture = smooth_picture(150, 16)
    assert torch.equal(upscaled(deep, picture, Tile(16, 16)), upscaled(deep, picture))


@settings(max_examples=40)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 130),
    tile=st.builds(Tile, st.integers(1, 140), st.integers(1, 70)),
    band_rows=st.integers(1, 70),
)
def test_a_network_by_rows_gives_the_same_bits_in_tiles(
    height: int, width: int, tile: Tile, band_rows: int
) -> None:
    small = network(compact())
    picture = random_picture(height, width)
    tiled = upscaled(small.in_tiles(), picture, tile, band_rows=band_rows)
    assert torch.equal(tiled, upscaled(small, picture))


@pytest.mark.parametrize("tile", [Tile(60, 16), Tile(32, 32)], ids=["rows", "tiles"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_the_result_rounded(tile: Tile, dtype: torch.dtype) -> None:
    small = network(compact(16, 3), dtype)
    if tile.width < 60:
        small = small.in_tiles()
    picture = random_picture(50, 60)
    expected = to_rows(upscaled(small, picture, tile), 8)
    stage = Stage(small, 60, 50, tile, RecordingHost(), as_bytes=True)
    parts = list(stage.run(in_bands(picture, 7)))
    assert {part.dtype for part in parts} == {torch.uint8}
    assert np.array_equal(to_rows(torch.cat(parts, 2), 8), expected)


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_windows_are_met_at_their_edges() -> None:
    model = swinir()
    swin = network(model)
    assert not swin.by_rows
    assert swin.align == 8
    assert swin.exact
    picture = random_picture(90, 107)
    with torch.inference_mode():
        expected = model(picture).clamp(0, 1)
    for tile in (Tile(32, 32), Tile(64, 24)):
        assert (upscaled(swin, picture, tile) - expected).abs().max() < 1e-4


def on_unshuffled_pixels() -> nn.Module:
    """Takes pictures of even sides."""
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    model: nn.Module = ESRGAN(in_nc=12, num_filters=8, num_blocks=1, shuffle_factor=2)
    return model


class CountingHost(RecordingHost):
    """Keeps the progress of `stage` after each tile."""

    def __init__(self) -> None:
        super().__init__()
        self.stage: Stage | None = None
        self.told: list[tuple[int, int]] = []
        self.share = 0.0

    def tile_done(self) -> None:
        assert self.stage is not None
        done = self.stage.tiles_done
        self.told.append((done, done + self.stage.tiles_left))
        assert self.share <= self.stage.share_done <= 1
        self.share = self.stage.share_done


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
@pytest.mark.parametrize("rows", [1, 7, 16, 30, 33, 64])
@pytest.mark.parametrize("layers", [compact, rrdb, on_unshuffled_pixels, swinir])
def test_the_tiles_that_are_done_reach_the_number_that_was_reported_first(
    layers: Callable[[], nn.Module], rows: int
) -> None:
    small = network(layers())
    for each in (small, small.in_tiles()) if small.by_rows else (small,):
        width = 31 if each.by_rows else 20
        step = each.align
        tile = Tile(-(-width // step) * step, -(-rows // step) * step)
        host = CountingHost()
        host.stage = stage = Stage(each, 31, 30, tile, host)
        assert (stage.tiles_done, stage.share_done) == (0, 0)
        for _ in stage.run(in_bands(random_picture(30, 31), 16)):
            pass
        total = host.told[0][1]
        assert {of for _, of in host.told} == {total}
        # Each tile once; a step that computes nothing is reported again.
        assert sorted({done for done, _ in host.told} - {0}) == list(range(1, total + 1))
        assert host.told[-1] == (total, total)
        assert host.share == 1
        assert stage.tiles_left == 0


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_a_picture_of_one_tile_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    swin = network(swinir())
    sides = []
    forward = swin._forward

    def counted(tile: Tensor) -> Tensor:
        sides.append(tuple(tile.shape[2:]))
        return forward(tile)

    monkeypatch.setattr(swin, "_forward", counted)
    picture = random_picture(40, 48)
    (whole,) = Stage(swin, 48, 40, Tile(48, 40), RecordingHost()).run([picture])
    assert whole.shape == (1, 3, 80, 96)
    assert sides == [(40, 48)]
    # Also in columns, and now that it is known how far the network looks.
    assert swin.exact
    sides.clear()
    upscaled(swin, picture, Tile(24, 40))
    assert [rows for rows, _ in sides] == [40, 40]
