"""Masks that modules share for the time of a tile."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from upscaled_models.esrgan.masks import masks_of_a_tile, share_masks

# The windows of all masks that were made.
MADE: list[int] = []


class Layer(nn.Module):
    """Counts its masks."""

    def __init__(self, window_size: int, shift: Any = 0) -> None:
        super().__init__()
        self.window_size, self.shift = window_size, shift

    def calculate_mask(self, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> Tensor:
        MADE.append(self.window_size)
        return torch.full(size, sum(one * self.window_size for one in (1, self.shift)), dtype=dtype)


def masks(*layers: Layer, **options: Any) -> tuple[int, list[Tensor]]:
    """How many the layers make, and what they get."""
    share_masks(nn.Sequential(*layers))
    before = len(MADE)
    got = [layer.calculate_mask((2, 3), **options) for layer in layers]
    return len(MADE) - before, got


def test_layers_that_would_make_the_same_get_one() -> None:
    layers = Layer(8), Layer(8), Layer(4), Layer(8, 1)
    with masks_of_a_tile():
        made, (one, same, *others) = masks(*layers)
        assert made == 3
        assert same is one
        assert [int(mask[0, 0]) for mask in (one, *others)] == [8, 4, 16]
        assert masks(*layers)[0] == 0
        made, (half, *_) = masks(*layers, dtype=torch.float16)
        assert made == 3
        assert half.dtype == torch.float16


def test_the_next_tile_gets_its_own() -> None:
    for _ in range(2):
        with masks_of_a_tile():
            assert masks(Layer(8), Layer(8))[0] == 1
    assert masks(Layer(8), Layer(8))[0] == 2


def test_what_depends_on_values_is_not_shared() -> None:
    with masks_of_a_tile():
        assert masks(Layer(8, torch.tensor(1)), Layer(8, torch.tensor(1)))[0] == 2
