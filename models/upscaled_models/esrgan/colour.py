"""Networks whose luma is kept and whose colour is interpolated.

A photograph's colour is smooth: cameras and JPEG keep it at half the resolution. A small network
that sharpens it is farther from the truth than Lanczos. So the bundled networks for clean pictures
give the luma alone, and the colour is the source's, interpolated.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

# Of a weights file's metadata: the name, and the value that asks for it.
COLOUR, INTERPOLATED = "colour", "interpolated"

# Luma of Rec. 601, as JPEG has it.
_LUMA = (0.299, 0.587, 0.114)
_RADIUS = 3
_SIDE = 2 * _RADIUS + 1


class InterpolatedColour(nn.Module):
    """A Compact network with the luma of its result, and with the colour of Lanczos-3.

    Takes and gives RGB, (B, 3, h, w) to (B, 3, scale * h, scale * w). It consists of convolutions
    alone, so it runs by rows as the network itself does, and takes no longer: the last convolution
    gives one value per pixel instead of three.
    At the picture's border the interpolation divides by the weights inside it, as Pillow does.
    """

    def __init__(self, network: nn.Module, scale: int) -> None:
        super().__init__()
        body = network.body
        assert isinstance(body, nn.ModuleList)
        *layers, last = body
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        pixels = scale**2
        light = torch.tensor(_LUMA)
        self.body = nn.Sequential(*layers)
        weight = last.weight.detach().reshape(3, pixels, *last.weight.shape[1:])
        bias = last.bias.detach().reshape(3, pixels)
        self.luma = _fixed(torch.einsum("c,cp...->p...", light, weight), light @ bias)
        # The colour is what red and blue have more than luma.
        differences = torch.eye(3)[[0, 2]] - light
        self.difference = _fixed(differences[:, :, None, None])
        self.one = _fixed(torch.zeros(1, 3, 1, 1), torch.ones(1))
        kernels = _lanczos(scale)
        self.inside = _fixed(kernels[:, None])
        self.interpolated = _fixed(
            torch.einsum("dc,pyx->dpcyx", differences, kernels).flatten(0, 1)
        )
        self.joined = _fixed(_joining(pixels))
        self.scale = scale

    def forward(self, picture: Tensor) -> Tensor:
        inside = self.inside(self.one(picture))
        colour = self.interpolated(picture) / torch.cat([inside, inside], 1)
        parts = [self.luma(self.body(picture)), colour, self.difference(picture)]
        added = functional.pixel_shuffle(self.joined(torch.cat(parts, 1)), self.scale)
        return added + functional.interpolate(picture, scale_factor=self.scale, mode="nearest")


def _joining(pixels: int) -> Tensor:
    """(3 * pixels, 3 * pixels + 2, 1, 1): from the luma that is added, the interpolated differences
    and the source's own ones to what red, green and blue get beyond the source's."""
    red, green, blue = _LUMA
    # Green has what keeps the luma.
    of_difference = torch.tensor([[1.0, 0.0], [-red / green, -blue / green], [0.0, 1.0]])
    each = torch.eye(pixels)
    added = each.repeat(3, 1)
    interpolated = torch.kron(of_difference, each)
    own = -of_difference.repeat_interleave(pixels, 0)
    return torch.cat([added, interpolated, own], 1)[:, :, None, None]


def _lanczos(scale: int) -> Tensor:
    """(scale * scale, 7, 7): for each pixel of the result, in the order of `pixel_shuffle`, the
    weights of the source's pixels around its own."""
    lines = []
    for place in range(scale):
        centre = (place + 0.5) / scale - 0.5
        line = [_weight(offset - centre) for offset in range(-_RADIUS, _RADIUS + 1)]
        lines.append([weight / sum(line) for weight in line])
    line_weights = torch.tensor(lines)
    return torch.einsum("ay,bx->abyx", line_weights, line_weights).flatten(0, 1)


def _weight(distance: float) -> float:
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
