"""Networks whose luma is kept, and whose colour follows it.

A photograph's colour is smooth: cameras and JPEG keep it at half the resolution. A small network
that sharpens it is farther from the truth than Lanczos. But Lanczos's colour under a sharper luma
draws dark lines beside saturated edges. Near an edge, the colours of a small picture lie on a line:
from one side's colour to the other's. So what the network adds to Lanczos's luma is added along
that line, and the result stays between both colours. The line is the regression of red, green and
blue on luma in a window, as in the guided filter (He, Sun, Tang, 2013).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from upscaled_models.esrgan.rows import followluma, smoothcolours

# Of a weights file's metadata: the name, and the values that ask for it.
COLOUR, FOLLOWS_LUMA, SMOOTH_FOLLOWS_LUMA = "colour", "follows luma", "smooth, follows luma"

# Of Lanczos-3, in pixels.
_RADIUS = followluma.RADIUS
# Variances of luma, which is between 0 and 1. Where it varies less than `_FAINT`, red, green and
# blue get more and more the same: with less than this number they pass both colours of an edge
# between two colours of nearly equal luma. Where it varies less than `_FLAT`, which is a standard
# deviation of one level of 255, ever less is added: a field of one colour keeps it to the last bit.
# In a damaged picture what varies by 3 levels may be damage.
_FAINT = 0.008
_FLAT = (1 / 255) ** 2
_FLAT_IF_DAMAGED = (3 / 255) ** 2
# How much of what the network adds is taken. It was trained for pictures reduced by bicubic, and is
# too bold with others and with those that are out of focus, above all if they are damaged.
_SHARE, _SHARE_IF_DAMAGED = 0.9, 0.75
# For smooth colours: the variance of luma below which they are ever more a mean; and the variance
# of red, green and blue that is noise. These are standard deviations of 4 and 10 levels.
_NOISE = (4 / 255) ** 2
_COLOUR_NOISE = (10 / 255) ** 2


class ColourFollowsLuma(nn.Module):
    """A Compact network of whose result only the luma is used; see the module.

    Takes and gives RGB, (B, 3, h, w) to (B, 3, scale * h, scale * w). It runs by rows, as the
    network itself does. The network's result counts between 0 and 1, because that is what it was
    trained to. At the picture's border the interpolation divides by the weights that lie inside, as
    Pillow does.

    All of it is one step behind the network, in float32; on a processor it is compiled.
    """

    def __init__(self, network: nn.Module, scale: int, *, smooth: bool = False) -> None:
        """smooth: colours are taken from what `SmoothColours` makes of the picture."""
        super().__init__()
        body = network.body
        assert isinstance(body, nn.ModuleList)
        self.body = nn.Sequential(*body)
        self.smooth = SmoothColours() if smooth else nn.Identity()
        self.flat = _FLAT_IF_DAMAGED if smooth else _FLAT
        self.share = _SHARE_IF_DAMAGED if smooth else _SHARE
        self.interpolation = _lanczos_lines(scale)

    def forward(self, picture: Tensor) -> Tensor:
        result: Tensor = followluma.apply(
            self.smooth(picture),
            picture,
            self.body(picture),
            self.interpolation,
            _FAINT,
            self.flat,
            self.share,
        )
        return result


class SmoothColours(nn.Module):
    """Colours without the noise of a camera or of JPEG; luma stays. (B, 3, h, w) to the same.

    In 5 x 5 pixels, colours are a line over luma (He, Sun, Tang, 2013). What lies beside the line
    is noise as far as it varies no more than noise does; the rest of it stays (Lee, 1980).
    """

    def forward(self, picture: Tensor) -> Tensor:
        result: Tensor = smoothcolours.apply(picture, _NOISE, _COLOUR_NOISE)
        return result


def _lanczos_lines(scale: int) -> Tensor:
    """(scale, 2 * _RADIUS + 1): for each row, or column, of the square that a pixel becomes, the
    weights of the pixels around it."""
    lines = []
    for place in range(scale):
        centre = (place + 0.5) / scale - 0.5
        line = [lanczos(offset - centre) for offset in range(-_RADIUS, _RADIUS + 1)]
        lines.append([weight / sum(line) for weight in line])
    return torch.tensor(lines)


def lanczos(distance: float) -> float:
    """The weight of a pixel so many pixels away, not yet divided by the sum of all weights."""
    if abs(distance) >= _RADIUS:
        return 0.0
    if distance == 0:
        return 1.0
    angle = math.pi * distance
    return _RADIUS * math.sin(angle) * math.sin(angle / _RADIUS) / angle**2
