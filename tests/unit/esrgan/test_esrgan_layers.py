"""In networks that run in tiles, compiled layers compute what the module's own layers compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tiny_networks import network, random_picture
from upscaled_models.esrgan.compiled import convolution
from upscaled_models.esrgan.layers import CompiledLayer

pytestmark = pytest.mark.skipif(
    convolution.kernel(torch.float32) is None, reason="no convolution is compiled for floats here"
)


def convolution_of(inputs: int = 16, outputs: int = 32, **given: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(inputs, outputs, 3, **given).requires_grad_(False)


@pytest.mark.parametrize(("inputs", "outputs"), [(16, 32), (60, 55), (36, 1)])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("is_channels_last", [True, False])
def test_a_layer_gives_what_the_module_gives(
    inputs: int, outputs: int, padding: int, has_bias: bool, is_channels_last: bool
) -> None:
    layer = convolution_of(inputs, outputs, padding=padding, bias=has_bias)
    pictures = torch.cat([random_picture(13, 22, channels=inputs, seed=seed) for seed in (1, 2)])
    if not is_channels_last:
        pictures = pictures.contiguous()
    expected = layer(pictures)
    result = CompiledLayer(layer, torch.float32)(pictures)
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("padding", [0, 1])
def test_it_does_in_bf16_whatever_the_picture_is_in(padding: int) -> None:
    layer = convolution_of(padding=padding).bfloat16()
    picture = random_picture(9, 20, channels=16).bfloat16()
    result = CompiledLayer(layer, torch.bfloat16)(picture)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result, layer(picture), rtol=2**-7, atol=2**-7)
    assert torch.equal(CompiledLayer(layer, torch.bfloat16)(picture.float()), result)


@pytest.mark.usefixtures("bf16")
def test_a_network_in_tiles_computes_with_them_in_bf16_too() -> None:
    small = network(real_cugan(), dtype=torch.bfloat16)
    assert small._layers
    picture = random_picture(24, 20)
    exact = network(real_cugan())._forward(picture)
    torch.testing.assert_close(small._forward(picture).float(), exact, rtol=0, atol=2**-5)


class Several(nn.Module):
    """One layer that fits, and several that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.fits = convolution_of(padding=1)
        self.mirrored = convolution_of(padding=1, padding_mode="reflect")
        self.strided = convolution_of(padding=1, stride=2)
        self.dilated = convolution_of(padding=2, dilation=2)
        self.grouped = convolution_of(padding=1, groups=2)
        self.narrow = nn.Conv2d(3, 16, 3, 1, 1)
        self.wide = nn.Conv2d(16, 16, 5, 1, 2)


def real_cugan() -> nn.Module:
    """Its convolutions do not pad."""
    from spandrel.architectures.RealCUGAN import UpCunet2x

    torch.manual_seed(0)
    model: nn.Module = UpCunet2x().eval()
    return model


def test_a_network_in_tiles_computes_with_them_and_keeps_its_own() -> None:
    small = network(real_cugan())
    assert not small.by_rows
    assert small._layers
    picture = random_picture(40, 44)
    own = small._descriptor(picture.clone())
    result = small._forward(picture)
    assert not torch.equal(result, own)
    torch.testing.assert_close(result, own, rtol=0, atol=1e-5)
    parameters = sum(weight.nbytes for weight in small._descriptor.model.parameters())
    assert small.size_bytes == parameters + sum(layer.extra_bytes for layer in small._layers)


def test_other_layers_stay_as_they_are() -> None:
    from upscaled_models.esrgan import layers

    model = Several()
    assert [
        name for name, layer in model.named_modules() if layers._fits(layer, torch.float32)
    ] == ["fits"]
