"""Networks whose luma is kept, and whose colour is half interpolated.

A photograph's colour is smooth: cameras and JPEG keep it at half the resolution. A small network
that sharpens it is farther from the truth than Lanczos. But all of Lanczos's colour under a sharp
luma draws dark lines beside saturated edges. The mean of both does neither.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from upscaled_imaging.luma import LUMA

# Of a weights file's metadata: the name, and the value that asks for it.
COLOUR, HALF_INTERPOLATED = "colour", "half interpolated"

_RADIUS = 3


class HalfInterpolatedColour(nn.Module):
    """A Compact network whose colour is the mean of its own and of Lanczos-3's.

    Takes and gives RGB, (B, 3, h, w) to (B, 3, scale * h, scale * w). It runs by rows, as the
    network itself does. The network's result counts between 0 and 1, because that is what it was
    trained to. At the picture's border the interpolation divides by the weights that lie inside, as
    Pillow does.
    """

    def __init__(self, network: nn.Module, scale: int) -> None:
        super().__init__()
        body = network.body
        assert isinstance(body, nn.ModuleList)
        pixels = scale**2
        luma = torch.tensor(LUMA)
        kernels = _interpolation(scale)
        # What red, green and blue have more than luma.
        colour = torch.eye(3) - luma
        self.body = nn.Sequential(*body)
        self.repeated = _fixed(torch.eye(3).repeat_interleave(pixels, 0)[:, :, None, None])
        self.one = _fixed(torch.zeros(1, 3, 1, 1), torch.ones(1))
        self.inside = _fixed(kernels[:, None])
        self.interpolated = _fixed(torch.einsum("dc,pyx->dpcyx", colour, kernels).flatten(0, 1))
        # The luma and half of the colour that the network adds to the repeated pixels; and half of
        # the interpolated colour, less that of the repeated pixels.
        added = torch.kron(luma + colour / 2, torch.eye(pixels))
        interpolated = torch.eye(3 * pixels) / 2
        repeated = -colour.repeat_interleave(pixels, 0) / 2
        self.joined = _fixed(torch.cat([added, interpolated, repeated], 1)[:, :, None, None])
        self.scale = scale

    def forward(self, picture: Tensor) -> Tensor:
        repeated = self.repeated(picture)
        added = torch.minimum(torch.maximum(self.body(picture), -repeated), 1 - repeated)
        inside = self.inside(self.one(picture))
        interpolated = self.interpolated(picture) / torch.cat([inside] * 3, 1)
        joined = self.joined(torch.cat([added, interpolated, picture], 1))
        enlarged = functional.interpolate(picture, scale_factor=self.scale, mode="nearest")
        return functional.pixel_shuffle(joined, self.scale) + enlarged


def _interpolation(scale: int) -> Tensor:
    """(scale * scale, 7, 7): for each pixel of the result, in the order of `pixel_shuffle`, the
    weights of the source's pixels around its own."""
    lines = []
    for place in range(scale):
        centre = (place + 0.5) / scale - 0.5
        line = [lanczos(offset - centre) for offset in range(-_RADIUS, _RADIUS + 1)]
        lines.append([weight / sum(line) for weight in line])
    line_weights = torch.tensor(lines)
    return torch.einsum("ay,bx->abyx", line_weights, line_weights).flatten(0, 1)


def lanczos(distance: float) -> float:
    """The weight of a pixel so many pixels away, not yet divided by the sum of all weights."""
    if abs(distance) >= _RADIUS:
        return 0.0
    if distance == 0:
        return 1.0
    angle = math.pi * distance
    return _RADIUS * math.sin(angle) * math.sin(angle / _RADIUS) / angle**2


def _fixed(weight: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    outputs, inputs, side, _ = weight.shape
    layer = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=bias is not None)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return layer
