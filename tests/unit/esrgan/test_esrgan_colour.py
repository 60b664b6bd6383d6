"""A network's luma, and colour that follows it, which a weights file asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from tiny_networks import (
    CPU,
    compact,
    in_bands,
    random_picture,
    rrdb,
    weights,
    without_compiled_steps,
)
from upscaled_bench.evaluation import edges
from upscaled_imaging.luma import LUMA
from upscaled_models.esrgan.colour import ColourFollowsLuma, SmoothColours
from upscaled_models.esrgan.compiled import library
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_models.esrgan.network import Network
from upscaled_models.esrgan.pixels import to_bytes
from upscaled_models.esrgan.precision import ImpreciseError
from upscaled_models.esrgan.rows import kernels
from upscaled_models.esrgan.rows.followluma import RADIUS
from upscaled_models.esrgan.rows.plaincolour import Following

_LUMA = torch.tensor(LUMA)[:, None, None]
_BUNDLED = Path(__file__).resolve().parents[3] / "models" / "weights"

compiled = pytest.mark.skipif(not library.available(), reason="there was no C compiler")


def save(model: nn.Module, path: Path, colour: str = "follows luma") -> Path:
    safetensors.torch.save_file(weights(model), path, {"colour": colour})
    return path


def luma(picture: Tensor) -> Tensor:
    return (picture * _LUMA).sum(-3, keepdim=True)


def lanczos(picture: Tensor, scale: int) -> Tensor:
    """Pillow's, in floats."""
    height, width = (scale * side for side in picture.shape[-2:])
    bands = [
        np.asarray(Image.fromarray(band.numpy()).resize((width, height), Image.Resampling.LANCZOS))
        for band in picture[0]
    ]
    return torch.from_numpy(np.stack(bands))[None]


def means(picture: Tensor, side: int = 3) -> Tensor:
    """Of side x side pixels, as far as they lie inside."""
    return functional.avg_pool2d(
        picture, side, stride=1, padding=side // 2, count_include_pad=False
    )


def smooth(picture: Tensor) -> Tensor:
    """Its luma, and colours nearer to a line over luma in 5 x 5 pixels, if they are noise."""
    brightness = luma(picture)
    colours = picture - brightness
    mean, mean_colours = means(brightness, 5), means(colours, 5)
    covariance = means(colours * brightness, 5) - mean_colours * mean
    slopes = covariance / (means(brightness**2, 5) - mean**2 + (4 / 255) ** 2)
    line = means(slopes, 5) * brightness + means(mean_colours - slopes * mean, 5)
    beside = (means(colours**2, 5) - mean_colours**2 - slopes * covariance).sum(1, keepdim=True)
    noise = (10 / 255) ** 2
    share = means(noise / beside.clamp(min=noise), 5)
    return picture + share * (line - colours)


def between_pixels(slopes: Tensor, scale: int) -> Tensor:
    """Bilinear; beyond the border all slopes are 1."""
    padded = functional.pad(slopes, (1, 1, 1, 1), value=1.0)
    large = functional.interpolate(padded, scale_factor=scale, mode="bilinear")
    return large[:, :, scale:-scale, scale:-scale]


@pytest.fixture(params=["compiled", "in torch"])
def step(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways to compute it."""
    with without_compiled_steps() if request.param == "in torch" else nullcontext():
        yield request.param


@pytest.mark.usefixtures("step")
@pytest.mark.parametrize("colour", ["follows luma", "smooth, follows luma"])
@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("height", "width"), [(21, 17), (2, 5), (1, 1), (9, 200)])
def test_what_the_network_adds_to_pillow_s_lanczos_in_luma_is_added_along_the_colours_line(
    tmp_path: Path, colour: str, scale: int, height: int, width: int
) -> None:
    model = compact(scale=scale)
    path = save(model, tmp_path / "a.safetensors", colour)
    picture = random_picture(height, width)
    with torch.inference_mode():
        result, plain = load_descriptor(path).model(picture), model(picture).clamp(0, 1)
    brightness, flat, share = luma(picture), 1 / 255, 0.9
    if colour == "smooth, follows luma":
        picture, flat, share = smooth(picture), 3 / 255, 0.75
    base = lanczos(picture, scale)
    covariance = means(picture * brightness) - means(picture) * means(brightness)
    variance = luma(covariance)
    slopes = between_pixels((covariance + 0.008) / (variance + 0.008), scale)
    shares = functional.interpolate(variance / (variance + flat**2), scale_factor=scale)
    expected = base + slopes * shares * share * (luma(plain) - luma(base))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("colour", ["follows luma", "smooth, follows luma"])
def test_a_field_of_one_colour_keeps_it_up_to_the_border(tmp_path: Path, colour: str) -> None:
    model = load_descriptor(save(compact(scale=4), tmp_path / "a.safetensors", colour)).model
    field = torch.tensor([0.9, 0.1, 0.3])[None, :, None, None]
    with torch.inference_mode():
        result = model(field.expand(1, 3, 12, 9))
    torch.testing.assert_close(result, field.expand_as(result), rtol=0, atol=1e-4)


@pytest.mark.parametrize("colour", ["follows luma", "smooth, follows luma"])
def test_it_runs_by_rows_as_in_one_piece(tmp_path: Path, step: str, colour: str) -> None:
    descriptor = load_descriptor(save(compact(), tmp_path / "a.safetensors", colour))
    picture = random_picture(37, 23)
    with torch.inference_mode():
        expected = descriptor.model(picture)
    network = Network(descriptor, CPU, torch.float32)
    assert network.by_rows
    results = [by_rows(network, picture, rows) for rows in (1, 5, 37)]
    assert all(torch.equal(result, results[0]) for result in results)
    torch.testing.assert_close(results[0], expected, rtol=0, atol=1e-5)
    pixels = by_rows(network, picture, 5, as_bytes=True)
    assert pixels.is_floating_point() == (step == "in torch" or not library.available())
    if pixels.is_floating_point():
        pixels, _ = to_bytes(pixels)
    assert torch.equal(pixels, to_bytes(results[0])[0])


def by_rows(network: Network, picture: Tensor, band_rows: int, *, as_bytes: bool = False) -> Tensor:
    stream = network.open(picture.shape[2], band_rows, as_bytes=as_bytes)
    with torch.inference_mode():
        bands = [stream.feed(band) for band in in_bands(picture, band_rows)]
        while (band := stream.drain()) is not None:
            bands.append(band)
    return torch.cat([band for band in bands if band is not None], 2)


@compiled
def test_what_the_network_adds_may_be_in_half_precision() -> None:
    added = random_picture(9, 20, channels=48).bfloat16() - 0.5
    half, whole = (follow_luma(detail) for detail in (added, added.float()))
    assert torch.equal(half, whole)


@compiled
def test_a_result_that_is_not_finite_is_reported() -> None:
    added = random_picture(9, 20, channels=48)
    follow_luma(added, torch.uint8)
    added[0, 47, 8, 19] = torch.nan
    with pytest.raises(ImpreciseError):
        follow_luma(added, torch.uint8)


def follow_luma(detail: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Of a picture in one piece, with weights that are all equal."""
    height, width = detail.shape[2:]
    picture = random_picture(height, width)
    source = functional.pad(picture, (0, 0, RADIUS, RADIUS))
    how = Following(torch.full((4, 2 * RADIUS + 1), 1 / 7), 0.01, 1e-5, 1.0)
    compute = kernels.follow_luma(how, dtype)
    band = kernels.Band(lambda _, like: like, first=0, height=4 * height)
    return compute([source, picture, detail], band)


def test_other_files_keep_their_colour(tmp_path: Path) -> None:
    gray = compact()
    assert isinstance(gray.body, nn.ModuleList)
    gray.body[0] = nn.Conv2d(1, 8, 3, padding=1)
    gray.body[-1] = nn.Conv2d(8, 16, 3, padding=1)
    others = {
        "other": save(compact(), tmp_path / "other.safetensors", "own"),
        "rrdb": save(rrdb(), tmp_path / "rrdb.safetensors"),
        "gray": save(gray, tmp_path / "gray.safetensors"),
    }
    for path in others.values():
        descriptor = load_descriptor(path)
        assert type(descriptor.model).__module__.startswith("spandrel.")


@pytest.mark.parametrize("name", ["compact-x4", "compact-x4-clean", "compact-x2"])
def test_the_colour_of_the_bundled_networks_follows_their_luma(name: str) -> None:
    model = load_descriptor(_BUNDLED / f"{name}.safetensors").model
    assert isinstance(model, ColourFollowsLuma)
    assert isinstance(model.smooth, SmoothColours) == name.endswith("-clean")


@pytest.mark.parametrize("name", ["compact-x4", "compact-x4-clean", "compact-x2"])
def test_a_bundled_network_passes_both_colours_of_an_edge_no_farther_than_lanczos(
    name: str,
) -> None:
    model = load_descriptor(_BUNDLED / f"{name}.safetensors").model
    white, red = (255, 255, 255), (227, 6, 19)
    least, most = torch.tensor(red)[:, None, None] / 255, torch.ones(3, 1, 1)
    for levels in edges.draw_edges(white, red):
        picture = torch.from_numpy(levels / np.float32(255)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            result = model(picture).clamp(0, 1)
        assert torch.maximum(least - result, result - most).max() * 255 <= 26
