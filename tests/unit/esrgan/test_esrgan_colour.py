"""A network's luma, and colour that follows it, which a weights file asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from tiny_networks import CPU, compact, random_picture, rrdb, weights
from upscaled_bench.evaluation import edges
from upscaled_imaging.luma import LUMA
from upscaled_models.esrgan.colour import ColourFollowsLuma
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_models.esrgan.network import Network

_LUMA = torch.tensor(LUMA)[:, None, None]
_BUNDLED = Path(__file__).resolve().parents[3] / "models" / "weights"


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


def means(picture: Tensor) -> Tensor:
    """Of 3 x 3 pixels, as far as they lie inside."""
    return functional.avg_pool2d(picture, 3, stride=1, padding=1, count_include_pad=False)


def between_pixels(slopes: Tensor, scale: int) -> Tensor:
    """Bilinear; beyond the border all slopes are 1."""
    padded = functional.pad(slopes, (1, 1, 1, 1), value=1.0)
    large = functional.interpolate(padded, scale_factor=scale, mode="bilinear")
    return large[:, :, scale:-scale, scale:-scale]


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(21, 17), (2, 5)])
def test_what_the_network_adds_to_pillow_s_lanczos_in_luma_is_added_along_the_colours_line(
    tmp_path: Path, scale: int, height: int, width: int
) -> None:
    model = compact(scale=scale)
    path = save(model, tmp_path / "a.safetensors")
    picture = random_picture(height, width)
    with torch.inference_mode():
        result, plain = load_descriptor(path).model(picture), model(picture).clamp(0, 1)
    brightness, base = luma(picture), lanczos(picture, scale)
    covariance = means(picture * brightness) - means(picture) * means(brightness)
    variance = luma(covariance)
    slopes = between_pixels((covariance + 0.008) / (variance + 0.008), scale)
    shares = functional.interpolate(variance / (variance + 1 / 255**2), scale_factor=scale)
    expected = base + slopes * shares * (luma(plain) - luma(base))
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


def test_a_field_of_one_colour_keeps_it_up_to_the_border(tmp_path: Path) -> None:
    model = load_descriptor(save(compact(scale=4), tmp_path / "a.safetensors")).model
    field = torch.tensor([0.9, 0.1, 0.3])[None, :, None, None]
    with torch.inference_mode():
        result = model(field.expand(1, 3, 12, 9))
    torch.testing.assert_close(result, field.expand_as(result), rtol=0, atol=1e-4)


def test_it_runs_by_rows_as_in_one_piece(tmp_path: Path) -> None:
    descriptor = load_descriptor(save(compact(), tmp_path / "a.safetensors"))
    picture = random_picture(37, 23)
    with torch.inference_mode():
        expected = descriptor.model(picture)
    network = Network(descriptor, CPU, torch.float32)
    assert network.by_rows
    with torch.inference_mode():
        results = []
        for band_rows in (5, 37):
            stream = network.open(37, band_rows)
            bands = [stream.feed(band) for band in torch.split(picture, band_rows, 2)]
            while (band := stream.drain()) is not None:
                bands.append(band)
            results.append(torch.cat([band for band in bands if band is not None], 2))
    assert torch.equal(*results)
    torch.testing.assert_close(results[0], expected, rtol=0, atol=1e-5)


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
