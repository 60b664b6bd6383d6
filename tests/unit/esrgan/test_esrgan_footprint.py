"""A network's memory by shapes is what it takes when it runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tiny_networks import network, swinir
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


@pytest.mark.filterwarnings("ignore")  # the architecture's own
def test_attention_takes_no_memory_for_pairs_of_places() -> None:
    descriptor = network(swinir(heads=6))._descriptor
    shape = (1, 3, 64, 64)
    with torch.inference_mode(), Footprint() as footprint:
        descriptor(torch.zeros(shape))
    by_shapes = footprint_by_shapes(descriptor, shape)
    assert by_shapes is not None
    assert by_shapes < 0.5 * footprint.peak_bytes


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


class Layer(nn.Module):
    """Widens its input and narrows it again. keeps: what it gives stays in memory."""

    runs = 0

    def __init__(self, width: int, *, keeps: bool = False) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, width, 1), nn.Conv2d(width, 3, 1)
        self.keeps = keeps
        self.kept: list[Tensor] = []

    def forward(self, picture: Tensor) -> Tensor:
        Layer.runs += 1
        result: Tensor = self.narrow(self.wide(picture))
        if self.keeps:
            self.kept.append(result + 1)
        return result


class Layers(nn.Module):
    """Layers one after the other, whose results are all in memory until the last has run."""

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, picture: Tensor) -> Tensor:
        results = [picture]
        for layer in self.layers:
            results.append(layer(results[-1]))
        return torch.stack(results).sum(0)


@pytest.mark.parametrize(
    ("layers", "runs"),
    [
        ([Layer(8), Layer(8), Layer(8)], 1),
        ([Layer(8), Layer(16), Layer(8)], 2),
        ([Layer(8, keeps=True), Layer(8, keeps=True)], 2),
    ],
    ids=["alike", "two builds", "with something kept"],
)
def test_layers_that_are_built_alike_run_once_and_count_each_time(
    layers: list[Layer], runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor = in_tiles()._descriptor
    monkeypatch.setattr(descriptor, "_model", Layers(*layers).eval())
    shape = (1, 3, 40, 64)
    monkeypatch.setattr(Layer, "runs", 0)
    by_shapes = footprint_by_shapes(descriptor, shape)
    assert Layer.runs == runs
    with torch.inference_mode(), Footprint() as footprint:
        descriptor(torch.zeros(shape))
    assert by_shapes == footprint.peak_bytes
