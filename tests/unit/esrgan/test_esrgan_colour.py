"""A network's luma over half interpolated colour, which a weights file asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from tiny_networks import CPU, compact, random_picture, rrdb, weights
from upscaled_imaging.luma import LUMA
from upscaled_models.esrgan.colour import HalfInterpolatedColour
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_models.esrgan.network import Network

_LUMA = torch.tensor(LUMA)[:, None, None]
_BUNDLED = Path(__file__).resolve().parents[3] / "models" / "weights"


def save(model: nn.Module, path: Path, colour: str = "half interpolated") -> Path:
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


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(21, 17), (2, 5)])
def test_the_luma_is_the_network_s_and_half_of_the_colour_is_pillow_s_lanczos(
    tmp_path: Path, scale: int, height: int, width: int
) -> None:
    model = compact(scale=scale)
    path = save(model, tmp_path / "a.safetensors")
    picture = random_picture(height, width)
    with torch.inference_mode():
        result, plain = load_descriptor(path).model(picture), model(picture).clamp(0, 1)
    enlarged = lanczos(picture, scale)
    colours = [one - luma(one) for one in (plain, enlarged)]
    expected = luma(plain) + (colours[0] + colours[1]) / 2
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


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


@pytest.mark.parametrize(
    ("name", "is_interpolated"),
    [("compact-x4", True), ("compact-x2", True), ("compact-x4-clean", False)],
)
def test_the_bundled_networks_for_clean_pictures_interpolate_colour(
    name: str, is_interpolated: bool
) -> None:
    model = load_descriptor(_BUNDLED / f"{name}.safetensors").model
    assert isinstance(model, HalfInterpolatedColour) == is_interpolated
