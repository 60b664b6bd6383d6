"""A network's memory by shapes is what it takes when it runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tiny_networks import network
from upscaled_models.esrgan.footprint import Footprint, footprint_by_shapes
from upscaled_models.esrgan.network import Network


def in_tiles() -> Network:
    from spandrel.architectures.SAFMN import SAFMN

    torch.manual_seed(0)
    return network(SAFMN(dim=8, n_blocks=1))


def test_memory_by_shapes_is_what_the_network_takes() -> None:
    descriptor = in_tiles()._descriptor
    shape = (1, 3, 40, 64)
    with torch.inference_mode(), Footprint() as footprint:
        descriptor(torch.zeros(shape))
    assert footprint_by_shapes(descriptor, shape) == footprint.peak_bytes


def test_a_network_that_branches_on_values_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    small = in_tiles()
    by_shapes = small._measure_pixel_bytes()

    class Branching(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, picture: Tensor) -> Tensor:
            assert picture.max() < 2
            result: Tensor = self.inner(picture)
            return result

    descriptor = small._descriptor
    monkeypatch.setattr(descriptor, "_model", Branching(descriptor.model))
    assert footprint_by_shapes(descriptor, (1, 3, 40, 64)) is None
    assert by_shapes <= small._measure_pixel_bytes() <= 1.1 * by_shapes
