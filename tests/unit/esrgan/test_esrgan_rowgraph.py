"""Row by row, a network gives to the last bit what it gives for the whole frame."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from garbage import without_garbage
from tiny_networks import DTYPES, compact, in_bands, random_picture, rrdb
from upscaled_models.esrgan.rows.graph import RowGraph
from upscaled_models.esrgan.rows.kernels import Compute, Convolution
from upscaled_models.esrgan.rows.tracing import NotRowLocalError, trace


@torch.inference_mode()
def stream(graph: RowGraph, picture: Tensor, scale: int, band_rows: int) -> Tensor:
    height = picture.shape[2]
    running = graph.open(height, band_rows)
    parts = [running.feed(band) for band in in_bands(picture, band_rows)]
    while sum(part.shape[2] for part in parts if part is not None) < height * scale:
        parts.append(running.drain())
    return torch.cat([part for part in parts if part is not None], 2)


@settings(max_examples=40)
@given(
    features=st.sampled_from([3, 4, 8, 16, 24, 48, 64]),
    convolutions=st.integers(1, 4),
    scale=st.sampled_from([1, 2, 3, 4]),
    height=st.integers(1, 70),
    width=st.integers(1, 150),
    band_rows=st.lists(st.integers(1, 80), min_size=1, max_size=3),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
def test_a_compact_network_gives_the_same_bits_in_bands_of_any_height(
    features: int,
    convolutions: int,
    scale: int,
    height: int,
    width: int,
    band_rows: list[int],
    dtype: torch.dtype,
    seed: int,
) -> None:
    graph = trace(compact(features, convolutions, scale, seed), 3, 1, dtype)
    picture = random_picture(height, width, seed=seed)
    whole = stream(graph, picture, scale, height)
    for rows in band_rows:
        assert torch.equal(stream(graph, picture, scale, rows), whole)


def unshuffling_rrdb() -> nn.Module:
    from spandrel.architectures.ESRGAN import ESRGAN

    model: nn.Module = ESRGAN(in_nc=12, num_filters=8, num_blocks=1, shuffle_factor=2)
    return model


def rrdb_plus() -> nn.Module:
    from spandrel.architectures.ESRGAN import ESRGAN

    model: nn.Module = ESRGAN(num_filters=8, num_blocks=1, plus=True)
    return model


def span() -> nn.Module:
    from spandrel.architectures.SPAN import SPAN

    model: nn.Module = SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2)
    return model


def mosr() -> nn.Module:
    from spandrel.architectures.MoSR import MoSR

    model: nn.Module = MoSR(n_block=2, dim=8, upscale=3)
    return model


def swift_srgan() -> nn.Module:
    from spandrel.architectures.SwiftSRGAN import SwiftSRGAN

    model: nn.Module = SwiftSRGAN(num_channels=8, num_blocks=2)
    return model


class Deep(NamedTuple):
    """A network, its scale, and what the sides of its input have to be multiples of."""

    build: Callable[[], nn.Module]
    scale: int
    multiple: int = 1

    def trace(self, dtype: torch.dtype) -> tuple[nn.Module, RowGraph]:
        torch.manual_seed(0)
        model = self.build().eval()
        return model, trace(model, 3, self.multiple, dtype)


DEEP = [
    Deep(rrdb, 4),
    Deep(rrdb_plus, 4),
    Deep(unshuffling_rrdb, 2, 4),
    Deep(span, 2),
    Deep(mosr, 3),
    Deep(swift_srgan, 4),
]
each_deep_network = pytest.mark.parametrize("deep", DEEP, ids=lambda deep: deep.build.__name__)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@each_deep_network
def test_a_deep_network_gives_the_same_bits_in_bands_of_any_height(
    deep: Deep, dtype: torch.dtype
) -> None:
    _, graph = deep.trace(dtype)
    picture = random_picture(52, 36)
    whole = stream(graph, picture, deep.scale, 52)
    for rows in (4, 12, 40):
        assert torch.equal(stream(graph, picture, deep.scale, rows), whole)


@each_deep_network
def test_the_graph_computes_what_the_module_computes(deep: Deep) -> None:
    model, graph = deep.trace(torch.float32)
    # Not the size that it was traced with: nothing of that may be left in the graph.
    picture = random_picture(44, 60)
    with torch.inference_mode():
        expected = model(picture)
    error = (stream(graph, picture, deep.scale, 8) - expected).abs().max()
    assert error <= 1e-5 * expected.abs().max()


@each_deep_network
def test_nothing_beyond_the_radius_matters(deep: Deep) -> None:
    model, graph = deep.trace(torch.float32)
    radius = graph.radius
    far = 4 * (1 + radius // 4)
    picture = random_picture(8, 2 * far)
    other = picture.clone()
    other[..., far + radius :] = 0.5
    with torch.inference_mode():
        changed = (model(picture) != model(other)).flatten(0, 2).any(0)
    assert not changed[: far * deep.scale].any()


def test_memory_between_bands_does_not_grow_with_the_height() -> None:
    graph = trace(rrdb(), 3, 1, torch.float32)
    picture = random_picture(400, 20)
    running = graph.open(400, 8)
    held = []
    with torch.inference_mode():
        for band in in_bands(picture, 8):
            running.feed(band)
            held.append(held_bytes(running))
    # Rows of dense blocks have a margin of two columns.
    assert held[20] == held[-2] <= (20 + 2) * graph.column_bytes


class WideBesideDeep(nn.Module):
    """Adds 48 channels that could be computed at once to the result of many convolutions."""

    def __init__(self, convolutions: int) -> None:
        super().__init__()
        self.deep = nn.Sequential(
            *(nn.Conv2d(3, 3, 3, padding=1) for _ in range(convolutions)), nn.Conv2d(3, 48, 1)
        )
        self.wide = nn.Conv2d(3, 48, 1)

    def forward(self, picture: Tensor) -> Tensor:
        result: Tensor = self.wide(picture) + self.deep(picture)
        return result


def test_the_picture_waits_and_not_the_wide_result_that_is_read_later() -> None:
    model = WideBesideDeep(8)
    graph = trace(model, 3, 1, torch.float32)
    assert graph.column_bytes < 8 * 48 * torch.float32.itemsize
    picture = random_picture(30, 20)
    with torch.inference_mode():
        expected = model(picture)
    torch.testing.assert_close(stream(graph, picture, 1, 7), expected, rtol=0, atol=1e-5)
    assert torch.equal(stream(graph, picture, 1, 7), stream(graph, picture, 1, 30))


def held_bytes(running: object) -> int:
    """Bytes of all tensors that the stream's buffers hold."""
    buffers = [buffer for layer in running._layers for buffer in layer.buffers]  # type: ignore[attr-defined]
    held = [value for buffer in buffers for value in tree_leaves(vars(buffer))]
    return sum(value.nbytes for value in held if isinstance(value, Tensor))


class Broken(nn.Module):
    """A network with one layer that a row graph cannot have."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Conv2d(3, 4, 3, 1, 1)
        self.last = nn.Conv2d(4, 3, 3, 1, 1)
        self.strided = nn.Conv2d(4, 4, 3, 2, 1)
        self.norm = nn.InstanceNorm2d(4) if kind == "norm" else None

    def forward(self, picture: Tensor) -> Tensor:
        x = self.first(picture)
        match self.kind:
            case "mean of the picture":
                x = x * x.mean((2, 3), keepdim=True)
            case "mean of a row":
                x = x - x.mean(3, keepdim=True)
            case "stride":
                x = nn.functional.interpolate(self.strided(x), scale_factor=2)
            case "mirrored border":
                x = nn.functional.pad(x, (1, 1, 1, 1), "reflect")[:, :, 1:-1, 1:-1]
            case "flipped":
                x = x.flip(2)
            case "row by row position":
                x = x + torch.linspace(0, 1, x.shape[2]).view(1, 1, -1, 1)
            case "bilinear":
                x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
            case "data":
                x = x if x.sum() > 0 else -x
            case "norm":
                assert self.norm is not None
                x = self.norm(x)
        return self.last(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "kind",
    [
        "mean of the picture",
        "mean of a row",
        "stride",
        "mirrored border",
        "flipped",
        "row by row position",
        "bilinear",
        "data",
        "norm",
    ],
)
def test_a_network_that_is_not_row_local_is_refused(kind: str) -> None:
    with pytest.raises(NotRowLocalError):
        trace(Broken(kind).eval(), 3, 1, torch.float32)


def test_the_same_network_without_that_layer_is_taken() -> None:
    assert trace(Broken("nothing").eval(), 3, 1, torch.float32).radius == 2


class Writing(nn.Module):
    """Writes into its tensors, of which some share their memory with others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(2, 2, 3, 1, 1)

    def forward(self, picture: Tensor) -> Tensor:
        features: Tensor = self.first(picture)
        features[:, :2] = self.second(features[:, :2])
        left, right = torch.split(features, 3, 1)
        left.mul_(0.5)
        result: Tensor = left + features[:, :3] * torch.relu_(right)
        return result


def test_a_network_that_writes_into_shared_memory_gives_what_it_gives_itself() -> None:
    torch.manual_seed(0)
    model = Writing().eval()
    graph = trace(model, 3, 1, torch.float32)
    picture = random_picture(20, 30, seed=0)
    with torch.no_grad():
        assert torch.allclose(stream(graph, picture, 1, 7), model(picture), atol=1e-6)


class NoConvolutions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses to compute any."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            assert type(args[0]) is not Tensor or args[0].is_meta
        return func(*args, **(kwargs or {}))


def test_a_network_is_traced_without_computing_it() -> None:
    model = rrdb()
    with NoConvolutions():  # type: ignore[no-untyped-call]
        trace(model, 3, 1, torch.float32)


class JoinedRows(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts how often rows are put together, which copies them."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten.cat.default and args[1:] == (2,)
        return func(*args, **(kwargs or {}))


def test_by_torchs_own_kernels_a_picture_in_one_band_is_never_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Accelerators have no others.
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = rrdb()
    graph = trace(model, 3, 1, torch.float32)
    picture = random_picture(40, 30)
    with JoinedRows() as joined:  # type: ignore[no-untyped-call]
        whole = graph.whole(picture)
    assert not joined.count
    with torch.inference_mode():
        torch.testing.assert_close(whole, model(picture))
    torch.testing.assert_close(stream(graph, picture, 4, 7), whole)


def test_weights_are_laid_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out = []
    compiled = Convolution.compiled

    def counted(convolution: Convolution, dtype: torch.dtype) -> Compute:
        laid_out.append(convolution)
        return compiled(convolution, dtype)

    monkeypatch.setattr(Convolution, "compiled", counted)
    model = compact()  # too narrow for the compiled convolutions, which lay out their own
    trace(model, 3, 1, torch.float32)
    assert len(laid_out) == sum(isinstance(layer, nn.Conv2d) for layer in model.modules())


def test_a_network_that_is_not_row_local_is_not_held_by_what_was_recorded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, stride=2, padding=1))
    # Not `pytest.raises`, which holds the error and with it all calls.
    with without_garbage(), suppress(NotRowLocalError):
        trace(model, 3, 1, torch.float32)
