"""How far a network is found to look."""

from __future__ import annotations

import pytest
from torch import Tensor, nn

from tiny_networks import CPU
from upscaled_models.esrgan.receptive import (
    LARGEST_RADIUS,
    ReceptiveField,
    has_many_windows,
    looking_far,
    probe,
    stated_windows,
)


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


def reach(model: nn.Module, multiple: int = 1) -> ReceptiveField:
    return probe(model, channels=3, scale=2, multiple=multiple, device=CPU)


@pytest.mark.parametrize("radius", [0, 1, 7, 33, LARGEST_RADIUS])
def test_the_radius_is_found_to_the_pixel(radius: int) -> None:
    assert reach(Looking(radius)) == ReceptiveField(radius, 1)


@pytest.mark.parametrize("window", [2, 8, 16, 32])
def test_windows_are_found_with_their_farthest_corner(window: int) -> None:
    # The least that is right: a pixel at one edge of a window, and 3 beyond the other.
    least = 3 + window - 1
    found = reach(Looking(3, window), multiple=window)
    assert found.period == window
    assert found.radius is not None
    assert least <= found.radius <= least + window


@pytest.mark.parametrize("window", [7, 12])
def test_windows_that_are_no_power_of_two_are_found_if_a_layer_states_them(window: int) -> None:
    looking = Looking(3, window)
    looking.add_module("attention", layer := nn.Identity())
    layer.window_size = (window, window)  # type: ignore[assignment]
    windows = stated_windows(looking)
    assert windows == window

    def padded(picture: Tensor) -> Tensor:
        missing = -picture.shape[3] % window, -picture.shape[2] % window
        whole = nn.functional.pad(picture, (0, missing[0], 0, missing[1]), mode="reflect")
        result: Tensor = looking(whole)[..., : 2 * picture.shape[2], : 2 * picture.shape[3]]
        return result

    found = probe(padded, channels=3, scale=2, multiple=1, windows=windows, device=CPU)
    assert found.period == window
    assert found.radius is not None
    assert looking_far(1, windows) == ReceptiveField(None, window)


def test_farther_than_a_tile_may_see_is_everywhere() -> None:
    assert reach(Looking(LARGEST_RADIUS + 1)).radius is None
    assert reach(Looking(1, everywhere=True)).radius is None
    # Windows of any size begin at its tiles' edges.
    assert reach(Looking(1, window=8, everywhere=True), multiple=8) == ReceptiveField(None, 32)


class Layer(nn.Module):
    """Says what layers of shifted windows say."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.window_size, self.shift_size = 8, shift


@pytest.mark.parametrize(("pairs", "looks_far"), [(8, False), (9, True)])
def test_many_shifted_windows_need_not_be_measured(pairs: int, looks_far: bool) -> None:
    model = nn.Sequential(*[Layer(shift) for _ in range(pairs) for shift in (0, 4)])
    assert has_many_windows(model) == looks_far


def test_a_network_that_fails_on_no_numbers_is_measured_all_the_same() -> None:
    class Strict(Looking):
        def forward(self, picture: Tensor) -> Tensor:
            if picture.isnan().any():
                raise ValueError("no numbers")
            return super().forward(picture)

    assert reach(Strict(7)) == ReceptiveField(7, 1)


def test_a_network_that_looks_far_is_shown_one_picture() -> None:
    class Counted(Looking):
        count = 0

        def forward(self, picture: Tensor) -> Tensor:
            self.count += 1
            return super().forward(picture)

    model = Counted(LARGEST_RADIUS + 1)
    assert reach(model).radius is None
    assert model.count == 1


def test_a_network_for_sides_of_many_pixels_is_measured() -> None:
    assert reach(Looking(2), multiple=128) == ReceptiveField(None, 128)


def test_a_network_that_looks_down_farther_than_across_is_found() -> None:
    class Tall(nn.Module):
        def forward(self, picture: Tensor) -> Tensor:
            shifted = nn.functional.pad(picture, (0, 0, 20, 0))[:, :, :-20]
            return nn.functional.interpolate(shifted, scale_factor=2)

    assert reach(Tall()) == ReceptiveField(20, 1)
