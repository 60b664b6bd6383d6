"""JPEG's losses, for many small pictures at once and on any device.

The steps are those of ITU-T T.81 and JFIF, in the order and with the roundings of libjpeg: colours
to YCbCr, chroma averaged down, 8 x 8 cosine transforms, quantisation, and all of it back. The
entropy coding loses nothing and is left out. The result is within a level or two of Pillow's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from upscaled_imaging.compression import LUMINANCE

SUBSAMPLING = ("4:4:4", "4:2:2", "4:2:0")
"""What `subsampling` counts: chroma at every pixel, at every second column, and row too."""

_BLOCK = 8

# Annex K.2 of T.81, in reading order.
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


def compress(levels: Tensor, quality: Tensor, subsampling: Tensor) -> Tensor:
    """Through a JPEG: (N, 3, H, W) of 0 to 255, whole numbers, to the same.

    `quality`, (N,), is 1 to 100 as libjpeg counts. `subsampling`, (N,), is an index into
    `SUBSAMPLING`. H and W are even.
    """
    red, green, blue = levels.unbind(1)
    luma = (0.299 * red + 0.587 * green + 0.114 * blue).round()
    chroma = torch.stack(
        (
            (-0.168735892 * red - 0.331264108 * green + 0.5 * blue + 128.0).round(),
            (0.5 * red - 0.418687589 * green - 0.081312411 * blue + 128.0).round(),
        ),
        dim=1,
    )
    luma = _quantised(luma[:, None], _table(LUMINANCE, quality))
    table = _table(_CHROMA, quality)
    kept = torch.empty_like(chroma)
    for index, step in enumerate(((1, 1), (1, 2), (2, 2))):
        chosen = subsampling == index
        kept[chosen] = _thinned(chroma[chosen], table[chosen], step)
    bluish, reddish = (kept - 128.0).unbind(1)
    luma = luma[:, 0]
    colours = (
        luma + 1.402 * reddish,
        luma - 0.344136286 * bluish - 0.714136286 * reddish,
        luma + 1.772 * bluish,
    )
    return torch.stack(colours, dim=1).round().clamp(0.0, 255.0)


def _thinned(chroma: Tensor, table: Tensor, step: tuple[int, int]) -> Tensor:
    """Averaged over `step` rows and columns, quantised, and enlarged again as libjpeg does."""
    if step == (1, 1):
        return _quantised(chroma, table)
    small = _quantised(functional.avg_pool2d(chroma, step).round(), table)
    # Three quarters of the nearer value, one of the farther: libjpeg's "fancy" upsampling.
    large = functional.interpolate(small, chroma.shape[2:], mode="bilinear", align_corners=False)
    return large.round()


def _quantised(plane: Tensor, table: Tensor) -> Tensor:
    """(N, C, H, W) through the cosine transform and a table (N, 8, 8) a picture, and back."""
    number, channels, height, width = plane.shape
    # The encoder repeats the last rows and columns to fill a block.
    down, right = -height % _BLOCK, -width % _BLOCK
    plane = functional.pad(plane, (0, right, 0, down), mode="replicate")
    rows, columns = plane.shape[2] // _BLOCK, plane.shape[3] // _BLOCK
    blocks = plane.reshape(number, channels, rows, _BLOCK, columns, _BLOCK).transpose(3, 4) - 128.0
    cosines = _cosines(plane)
    steps = table[:, None, None, None]
    kept = (cosines @ blocks @ cosines.T / steps).round() * steps
    blocks = (cosines.T @ kept @ cosines + 128.0).round().clamp(0.0, 255.0)
    restored = blocks.transpose(3, 4).reshape(plane.shape)
    return restored[:, :, :height, :width]


def _cosines(like: Tensor) -> Tensor:
    """The orthonormal transform of 8 values, (frequency, place)."""
    frequency = torch.arange(_BLOCK, device=like.device, dtype=like.dtype)[:, None]
    place = torch.arange(_BLOCK, device=like.device, dtype=like.dtype)[None]
    matrix = torch.cos((2.0 * place + 1.0) * frequency * (math.pi / (2 * _BLOCK))) * 0.5
    matrix[0] *= math.sqrt(0.5)
    return matrix


def _table(base: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """The table of each quality, (N, 8, 8), as libjpeg scales it."""
    quality = quality.to(torch.float32)
    percent = torch.where(quality < 50.0, (5000.0 / quality).floor(), 200.0 - 2.0 * quality)
    table = torch.tensor(base, device=quality.device, dtype=torch.float32)
    return ((table * percent[:, None, None] + 50.0) / 100.0).floor().clamp(1.0, 255.0)
