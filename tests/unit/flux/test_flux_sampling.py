"""Noise levels, noise and tiles: what does not need the files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("diffusers", reason="needs the flux extra")
# isort: split
from upscaled_imaging.rows import Picture
from upscaled_models.flux.cost import count_tiles, tile_cost
from upscaled_models.flux.picture import refine_rows
from upscaled_models.flux.sampling import NoiseField, noise_levels
from upscaled_models.flux.tiles import tile_offsets
from upscaled_models.tiling import join

SHIFT = math.exp(1.15)


def test_noise_levels_are_those_of_the_diffusers_scheduler() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift=SHIFT)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 100, 100))
    levels = noise_levels(20, 0.2, SHIFT)
    assert levels == pytest.approx(scheduler.sigmas[-21:].tolist(), abs=1e-6)
    assert levels[0] == pytest.approx(0.4412, abs=1e-4)


def test_full_denoise_begins_at_pure_noise() -> None:
    assert noise_levels(4, 1.0, SHIFT)[0] == 1.0


def test_no_denoise_is_no_step() -> None:
    assert noise_levels(20, 0.0, SHIFT) == []


@given(st.integers(1, 200), st.floats(0.001, 1))
def test_steps_are_model_calls_whatever_the_denoise(steps: int, denoise: float) -> None:
    levels = noise_levels(steps, denoise, SHIFT)
    assert len(levels) == steps + 1
    assert levels[-1] == 0
    assert all(1 >= level >= below for level, below in pairwise(levels))


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 80), st.integers(1, 80))
def test_noise_belongs_to_the_place(top: int, left: int, height: int, width: int) -> None:
    field = NoiseField(7, 2)
    whole = field.region(0, 0, 180, 180)
    part = field.region(top, left, height, width)
    assert torch.equal(part, whole[:, top : top + height, left : left + width])


def test_noise_is_normal_and_belongs_to_the_seed() -> None:
    first = NoiseField(1, 16).region(0, 0, 64, 64)
    assert first.mean().abs() < 0.02
    assert first.std() == pytest.approx(1, abs=0.02)
    assert torch.equal(first, NoiseField(1, 16).region(0, 0, 64, 64))
    assert not torch.equal(first, NoiseField(2**62, 16).region(0, 0, 64, 64))


@given(st.integers(1, 400), st.integers(1, 40), st.sampled_from([1, 16]))
def test_tiles_cover_a_length_with_overlaps_on_the_grid(length: int, side: int, grid: int) -> None:
    length, side = length * grid, side * grid
    offsets = tile_offsets(length, side, grid)
    assert offsets[0] == 0
    assert max(offsets[-1] + side, side) >= length
    assert offsets[-1] + side == length or len(offsets) == 1
    shared = max(side // 8 // grid, 1) * grid if side > grid else 0
    assert all(grid <= after - before <= side - shared for before, after in pairwise(offsets))
    assert all(offset % grid == 0 for offset in offsets)


def pictures(width: int, height: int, bands: int, bits: int) -> list[np.ndarray]:
    """Constant, a gradient, and noise."""
    top = 2**bits - 1
    dtype = np.uint8 if bits == 8 else np.uint16
    ramp = np.linspace(0, top, width * height * bands).reshape(height, width, bands)
    generator = np.random.default_rng(0)
    return [
        np.full((height, width, bands), top // 3, dtype),
        ramp.astype(dtype),
        generator.integers(0, top + 1, (height, width, bands), dtype),
    ]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(150, 130), (20, 300), (7, 5), (128, 128)])
def test_no_seam_shows_where_the_model_changes_nothing(
    bits: int, bands: int, size: tuple[int, int]
) -> None:
    width, height = size
    for picture in pictures(width, height, bands, bits):

        def refine(band: torch.Tensor, top: int) -> torch.Tensor:
            assert band.shape[0] == 3
            assert band.shape[1] % 16 == band.shape[2] % 16 == top % 16 == 0
            columns = tile_offsets(band.shape[2], 64, 16)
            return join([band[:, :, x : x + 64] for x in columns], columns, 2)

        blocks = np.array_split(picture, min(9, height))
        refined = refine_rows(
            iter(blocks), Picture(width, height, bands, bits), side=64, grid=16, refine=refine
        )
        assert np.array_equal(np.concatenate(list(refined)), picture)


def test_alpha_passes_by_and_gray_is_the_mean() -> None:
    picture = np.full((64, 64, 2), 100, np.uint8)
    picture[:, :, 1] = np.arange(64)

    def refine(band: torch.Tensor, top: int) -> torch.Tensor:
        return band + torch.tensor([0.0, 10.0, 20.0]).view(3, 1, 1) / 255

    (rows,) = refine_rows(iter([picture]), Picture(64, 64, 2, 8), side=64, grid=16, refine=refine)
    assert (rows[:, :, 0] == 110).all()
    assert np.array_equal(rows[:, :, 1], picture[:, :, 1])


def test_no_more_than_two_bands_are_held() -> None:
    read = 0

    def rows() -> Iterator[np.ndarray]:
        nonlocal read
        for _ in range(100):
            read += 16
            yield np.zeros((16, 32, 3), np.uint8)

    stream = refine_rows(
        rows(),
        Picture(32, 1600, 3, 8),
        side=64,
        grid=16,
        refine=lambda band, top: band,
    )
    written = 0
    for block in stream:
        written += len(block)
        assert read - written <= 2 * 64
    assert written == 1600


def test_the_cost_is_that_of_the_matrices_that_run() -> None:
    width, blocks, text = 3072, 57, 256
    tokens = (128 // 16) ** 2 + text
    # For each token 12 width x width products a block, and attention between all of them.
    expected = blocks * (24 * width**2 * tokens + 4 * tokens**2 * width)
    assert tile_cost(128).call == pytest.approx(expected, rel=0.02)
    assert count_tiles(4096, 4096, 512) == 81
    assert count_tiles(100, 512, 512) == 1
