"""The compiled steps of colour, `colour.c` and `smooth.c`, by torch's own operations: for
accelerators, and where nothing was compiled. In float32."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from upscaled_imaging.luma import LUMA

# Pixels of the source whose colours are computed at once. While that runs, each takes 44 bytes for
# each pixel of the result.
_PIXELS = 400_000


@dataclass(frozen=True)
class Following:
    """How colour follows luma; `esrgan/colour.py` says what the numbers are.

    interpolation: (scale, taps): for each row or column of the square that a pixel becomes, the
    weights of the pixels around it.
    """

    interpolation: Tensor
    faint: float
    flat: float
    share: float

    @property
    def scale(self) -> int:
        """Pixels of the result per pixel, to each side."""
        return len(self.interpolation)


def follow_luma(
    source: Tensor, picture: Tensor, detail: Tensor, how: Following, *, first: int, height: int
) -> Tensor:
    """Rows of the result, (B, 3, scale * h, scale * W), from those of a picture of `height` rows
    from row `first` on.

    source: (B, 3, h + taps - 1, W), from half of the taps above on; 0 outside of the picture.
    picture: (B, 3, h, W). detail: (B, 3 * scale * scale, h, W).
    """
    count, width = picture.shape[2:]
    beyond, at_once = how.interpolation.shape[1] - 1, max(_PIXELS // width, 1)
    how = replace(how, interpolation=how.interpolation.to(source.device))
    parts = [
        _follow_luma(
            source[:, :, top : top + at_once + beyond],
            picture[:, :, top : top + at_once],
            detail[:, :, top : top + at_once],
            how,
            first + top,
            height,
        )
        for top in range(0, count, at_once)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _follow_luma(  # noqa: PLR0917 - those of `follow_luma`
    source: Tensor, picture: Tensor, detail: Tensor, how: Following, first: int, height: int
) -> Tensor:
    scale, taps = how.interpolation.shape
    halo = taps // 2
    count, width = picture.shape[2:]
    slopes, shares = _slopes_and_shares(source[:, :, 1:-1], how, first - 1, height)
    for_rows = _weights_inside(how.interpolation, first, count, height)[..., None]
    for_columns = _weights_inside(how.interpolation, 0, width, width)[:, :, None]
    # From here on a pixel has scale x scale parts: (B, 3, scale, scale, h, W).
    between = _weighted([source[:, :, None, tap : tap + count] for tap in range(taps)], for_rows)
    between = functional.pad(between, (halo, halo))[:, :, :, None]
    result = _weighted([between[..., tap : tap + width] for tap in range(taps)], for_columns)
    pixel = picture[:, :, None, None]
    added = detail.to(torch.float32, memory_format=torch.contiguous_format)
    added = added.reshape(*result.shape).clamp(-pixel, 1 - pixel)
    added += source[:, :, None, None, halo:-halo]
    added -= result
    luma = _luma(added).mul_(shares[:, :, None, None, 1:-1])
    del added
    above, beside, below = (slopes[:, :, row : row + count] for row in range(3))
    slopes = functional.pad(_between(above, beside, below, scale), (1, 1))
    left, beside, right = (slopes[..., column : column + width] for column in range(3))
    result += _between(left, beside, right, scale).add_(1).mul_(luma)
    return functional.pixel_shuffle(result.flatten(1, 3), scale)


def _slopes_and_shares(
    source: Tensor, how: Following, first: int, height: int
) -> tuple[Tensor, Tensor]:
    """(B, 3, h, W), less 1, and (B, 1, h, W), for h rows from row `first` on; beyond the picture
    slopes are 0. source: one row more above and below."""
    centred = (source - 0.5) * _inside(first - 1, source, height)
    means = _means(torch.cat([centred, centred * _luma(centred)], 1), 1, first, height)
    means, squares = means.chunk(2, 1)
    covariance = squares - means * _luma(means)
    total = _luma(covariance)
    variance = functional.relu(total)  # rounded, the total may be below 0
    slopes = (covariance - total) / (variance + how.faint)
    shares = how.share * variance / (variance + how.flat)
    return slopes * _inside(first, slopes, height), shares


def smooth_colours(
    picture: Tensor, noise: float, colour_noise: float, *, first: int, height: int
) -> Tensor:
    """Rows of the result, (B, 3, h, W), from row `first` of a picture of `height` rows on.

    picture: (B, 3, h + 8, W), from four rows above on; 0 outside of the picture.
    """
    centred = (picture - 0.5) * _inside(first - 4, picture, height)
    luma = _luma(centred)
    colours = centred - luma
    values = torch.cat([luma, luma**2, colours, colours * luma, colours**2], 1)
    means = _means(values, 2, first - 2, height)
    mean, square, mean_colours, products, squares = torch.split(means, [1, 1, 3, 3, 3], 1)
    covariance = products - mean * mean_colours
    slopes = covariance / (functional.relu(square - mean**2) + noise)
    offsets = mean_colours - slopes * mean
    beside = squares - mean_colours**2 - slopes * covariance
    total = reduce(torch.add, torch.split(beside, 1, 1))
    shares = colour_noise / (functional.relu(total - colour_noise) + colour_noise)
    lines = torch.cat([slopes, offsets, shares], 1)
    lines = _means(lines * _inside(first - 2, lines, height), 2, first, height)
    slopes, offsets, shares = torch.split(lines, [3, 3, 1], 1)
    luma, colours, own = (one[:, :, 4:-4] for one in (luma, colours, picture))
    return own + shares * (slopes * luma + offsets - colours)


def _luma(pixels: Tensor) -> Tensor:
    """(B, 3, …) to (B, 1, …)."""
    red, green, blue = (pixels[:, channel : channel + 1] for channel in range(3))
    return torch.mul(red, LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def _inside(first: int, rows: Tensor, height: int) -> Tensor:
    """(h, 1): 1 for each of the rows, (B, C, h, W) from row `first` on, that the picture has."""
    numbers = torch.arange(first, first + rows.shape[2], device=rows.device)[:, None]
    return ((numbers >= 0) & (numbers < height)).to(rows.dtype)


def _means(values: Tensor, radius: int, first: int, height: int) -> Tensor:
    """Of the pixels up to `radius` away, as far as they lie in the picture, for rows from row
    `first` on. values: `radius` rows more above and below; 0 outside of the picture."""
    side, width = 2 * radius + 1, values.shape[3]
    sums = functional.avg_pool2d(values, side, 1, (0, radius), divisor_override=1)
    rows = _count(first, sums.shape[2], radius, height, values.device)
    return sums / (rows[:, None] * _count(0, width, radius, width, values.device))


def _count(first: int, count: int, radius: int, length: int, device: torch.device) -> Tensor:
    """(count,): of the lines up to `radius` away, how many lie between 0 and `length`."""
    numbers = torch.arange(first, first + count, device=device)
    least, most = (numbers - radius).clamp(min=0), (numbers + radius).clamp(max=length - 1)
    return (most - least + 1).clamp(min=1)


def _weights_inside(lines: Tensor, first: int, count: int, length: int) -> Tensor:
    """(taps, scale, count): the weights of the lines around each line from `first` on, without
    those outside of 0 to `length`; the sum of the others is 1. lines: (scale, taps)."""
    taps = torch.arange(lines.shape[1], device=lines.device)[:, None] - lines.shape[1] // 2
    places = torch.arange(first, first + count, device=lines.device) + taps
    weights = lines.T[:, :, None] * ((places >= 0) & (places < length))[:, None]
    # Not `sum`: the order in which it adds depends on the number of lines.
    total: Tensor = reduce(torch.add, weights)
    return weights / total


def _weighted(values: list[Tensor], weights: Tensor) -> Tensor:
    """The sum of the values, each times its weights."""
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total.addcmul_(value, weight)
    return total


def _between(before: Tensor, own: Tensor, behind: Tensor, scale: int) -> Tensor:
    """Bilinear: for each of `scale` places in a pixel a value between its own, (B, 3, …, h, W), and
    its neighbour's. (B, 3, …, scale, h, W)."""
    distances = [(place + 0.5) / scale - 0.5 for place in range(scale)]
    return torch.stack(
        [
            torch.lerp(own, before if distance < 0 else behind, abs(distance))
            for distance in distances
        ],
        -3,
    )
