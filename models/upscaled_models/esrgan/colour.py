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
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from upscaled_imaging.luma import LUMA
from upscaled_models.esrgan.rows import followluma, smoothcolours

# Of a weights file's metadata: the name, and the values that ask for it.
COLOUR, FOLLOWS_LUMA, SMOOTH_FOLLOWS_LUMA = "colour", "follows luma", "smooth, follows luma"

# Of Lanczos-3, in pixels.
_RADIUS = followluma.RADIUS
# Variances of luma, which is between 0 and 1. Where it varies less than `_FAINT`, red, green and
# blue get more and more the same: with less than this number they pass both colours of an edge
# between two colours of nearly equal luma. Where it varies less than `_FLAT`, which is a standard
# deviation of one level of 255, ever less is added: a field of one colour keeps it to the last bit.
_FAINT = 0.008
_FLAT = (1 / 255) ** 2
# For smooth colours: the pixels to each side that they are taken from; the variance of luma below
# which they are ever more a mean; and the variance of red, green and blue that is noise. These are
# standard deviations of 4 and 10 levels.
_SMOOTH_RADIUS = 2
_NOISE = (4 / 255) ** 2
_COLOUR_NOISE = (10 / 255) ** 2


class ColourFollowsLuma(nn.Module):
    """A Compact network of whose result only the luma is used; see the module.

    Takes and gives RGB, (B, 3, h, w) to (B, 3, scale * h, scale * w). It runs by rows, as the
    network itself does. The network's result counts between 0 and 1, because that is what it was
    trained to. At the picture's border the interpolation divides by the weights that lie inside, as
    Pillow does.

    On a processor all of it is one compiled step behind the network, in float32.
    """

    def __init__(self, network: nn.Module, scale: int, *, smooth: bool = False) -> None:
        """smooth: colours are taken from what `SmoothColours` makes of the picture."""
        super().__init__()
        body = network.body
        assert isinstance(body, nn.ModuleList)
        pixels = scale**2
        luma, rgb = torch.tensor(LUMA)[None], torch.eye(3)
        to_luma = luma.expand(3, 3)
        self.body = nn.Sequential(*body)
        self.smooth = SmoothColours() if smooth else nn.Identity()

        repeated = _pixel_wise(rgb.repeat_interleave(pixels, 0))
        self.darkest = _fixed(-repeated)
        self.brightest = _fixed(-repeated, torch.ones(3 * pixels))
        self.one = _one()
        sharper = _weights(scale, _RADIUS, lanczos)
        sharper[:, _RADIUS, _RADIUS] -= 1
        self.sharper = _fixed(_each_channel(sharper))
        self.outside = _fixed(-sharper.repeat(3, 1, 1)[:, None])
        between = torch.kron(to_luma, torch.eye(pixels))
        self.added_luma = _fixed(_pixel_wise(between))

        self.nearby = _Nearby(1)
        # Between the pixels, too. No slope beyond the border is 1 there: all colours get the same.
        bilinear = _each_channel(_weights(scale, 1, lambda distance: max(0.0, 1 - abs(distance))))
        self.slopes = _fixed(bilinear, torch.ones(3 * pixels))
        self.shares = _fixed(torch.ones(3 * pixels, 1, 1, 1))
        self.interpolation = _lines(scale, _RADIUS, lanczos)
        self.scale = scale

    def forward(self, picture: Tensor) -> Tensor:
        source, detail = self.smooth(picture), self.body(picture)
        if followluma.can_apply(picture, self.scale):
            result: Tensor = followluma.apply(
                source, picture, detail, self.interpolation, _FAINT, _FLAT
            )
            return result
        return self._in_torch(source, picture, detail)

    def _in_torch(self, source: Tensor, picture: Tensor, detail: Tensor) -> Tensor:
        """The same by calls that run by rows on any device, before the pixel shuffle, where a pixel
        has `scale * scale` parts. Values are relative to the repeated pixel: in half precision only
        the differences are rounded."""
        one, darkest = self.one(source), self.darkest(source)
        outside = self.outside(one)
        interpolated = (self.sharper(source) - darkest * outside) / (1 - outside)
        least = darkest if source is picture else self.darkest(picture)
        added = torch.clamp(detail, least, self.brightest(picture))
        luma = self.added_luma(added - interpolated)
        nearby = self.nearby
        _, covariance = nearby.means_and_covariance(source, one)
        variance = functional.relu(nearby.luma(covariance))  # rounded, it may be below 0
        slopes = self.slopes(nearby.beyond_luma(covariance) / (variance + _FAINT))
        shares = self.shares(variance / (variance + _FLAT))
        sharper = interpolated + luma * slopes * shares
        enlarged = functional.interpolate(source, scale_factor=self.scale, mode="nearest")
        return functional.pixel_shuffle(sharper, self.scale) + enlarged


class SmoothColours(nn.Module):
    """Colours without the noise of a camera or of JPEG; luma stays. (B, 3, h, w) to the same.

    In 5 x 5 pixels, colours are a line over luma (He, Sun, Tang, 2013). What lies beside the line
    is noise as far as it varies no more than noise does; the rest of it stays (Lee, 1980).
    """

    def __init__(self) -> None:
        super().__init__()
        self.one = _one()
        self.nearby = _Nearby(_SMOOTH_RADIUS)
        self.total = _fixed(_pixel_wise(torch.ones(1, 3)))

    def forward(self, picture: Tensor) -> Tensor:
        if smoothcolours.can_apply(picture):
            compiled: Tensor = smoothcolours.apply(picture, _NOISE, _COLOUR_NOISE)
            return compiled
        nearby, one = self.nearby, self.one(picture)
        means, covariance = nearby.means_and_covariance(picture, one)
        variance = functional.relu(nearby.luma(covariance))
        centred = nearby.centred(picture)
        luma, colours, mean = (
            nearby.luma(centred),
            nearby.beyond_luma(centred),
            nearby.beyond_luma(means),
        )
        with_luma = nearby.beyond_luma(covariance)
        slopes = with_luma / (variance + _NOISE)
        offsets = mean - slopes * nearby.luma(means)
        line = nearby.mean(slopes, one) * luma + nearby.mean(offsets, one)
        beside = nearby.mean(colours * colours, one) - mean * mean - slopes * with_luma
        more = functional.relu(self.total(beside) - _COLOUR_NOISE)
        share = nearby.count(_COLOUR_NOISE / (more + _COLOUR_NOISE)) / nearby.count(one)
        # In half precision only the difference is rounded.
        smooth: Tensor = picture + share * (line - colours)
        return smooth


class _Nearby(nn.Module):
    """Statistics of the pixels up to `radius` away, as far as they lie in the picture."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        side = 2 * radius + 1
        luma, rgb = torch.tensor(LUMA)[None], torch.eye(3)
        self.centred = _fixed(_pixel_wise(rgb), torch.full((3,), -0.5))
        self.luma = _fixed(_pixel_wise(luma))
        self.beyond_luma = _fixed(_pixel_wise(rgb - luma.expand(3, 3)))
        self.sums = _fixed(_pixel_wise(rgb).expand(3, 3, side, side))
        self.count = _fixed(torch.ones(1, 1, side, side))

    def mean(self, values: Tensor, one: Tensor) -> Tensor:
        """Of (B, 3, h, w). one: 1 in each pixel, (B, 1, h, w)."""
        mean: Tensor = self.sums(values) / self.count(one)
        return mean

    def means_and_covariance(self, picture: Tensor, one: Tensor) -> tuple[Tensor, Tensor]:
        """Of red, green and blue, less a middle value; and with luma. (B, 3, h, w) each."""
        centred = self.centred(picture)
        means = self.mean(centred, one)
        squares = self.mean(centred * self.luma(centred), one)
        return means, squares - means * self.luma(means)


def _one() -> nn.Conv2d:
    """Gives 1 for each pixel, (B, 1, h, w)."""
    return _fixed(torch.zeros(1, 3, 1, 1), torch.ones(1))


def _weights(scale: int, radius: int, kernel: Callable[[float], float]) -> Tensor:
    """(scale * scale, side, side): for each pixel of the result, in the order of `pixel_shuffle`,
    the weights of the source's pixels around its own."""
    lines = _lines(scale, radius, kernel)
    return torch.einsum("ay,bx->abyx", lines, lines).flatten(0, 1)


def _lines(scale: int, radius: int, kernel: Callable[[float], float]) -> Tensor:
    """(scale, side): the same for the rows of the result, or for its columns."""
    lines = []
    for place in range(scale):
        centre = (place + 0.5) / scale - 0.5
        line = [kernel(offset - centre) for offset in range(-radius, radius + 1)]
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


def _each_channel(kernels: Tensor) -> Tensor:
    """(parts, side, side) to (3 * parts, 3, side, side): the same for red, green and blue."""
    return torch.einsum("dc,pyx->dpcyx", torch.eye(3), kernels).flatten(0, 1)


def _pixel_wise(matrix: Tensor) -> Tensor:
    """(outputs, inputs) to the weights of a convolution that sees one pixel."""
    return matrix[:, :, None, None]


def _fixed(weight: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    outputs, inputs, side, _ = weight.shape
    layer = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=bias is not None)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return layer
