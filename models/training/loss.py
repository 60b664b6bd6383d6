"""The error that training makes small."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from upscaled_imaging.luma import LUMA

SOFTNESS = 0.1
"""Errors below this (of 1.0) count by their square, as PSNR does, and larger ones linearly: a few
hard edges would otherwise outweigh all of the texture."""

RGB_WEIGHT = 0.1
LUMA_WEIGHT = 2.0
"""Of the errors in red, green and blue, and in brightness. `upscaled` uses the brightness alone;
what is left for the colours is for other programs that run the weights."""


BEYOND_WEIGHT = 32.0
"""Of values beyond all that is near in the true picture. They are few, so the other errors hardly
see them, but the eye does: a dark line along the edge between white and a saturated colour."""


SLACK = 0.05
"""How far a value may lie beyond 0 or 1 if the truth is at that end. Without an end to it, what the
network makes of black and pure colours grows until it spoils other pictures, too."""


def picture_loss(large: Tensor, truth: Tensor) -> Tensor:
    """The error of `large` against `truth`, both (N, 3, parts, H, W), 0 to 1.

    `parts` are the pixels that the pixel shuffle will put side by side; comparing before the
    shuffle spares it and its gradient.

    Below 0 and above 1 the result is clipped when it is stored. So a value that is little beyond
    the range is right if the truth lies at that end of it. This lets a network hold black and pure
    colours exactly, since it need not hit 0 and 1.
    """
    with torch.no_grad():
        wanted = torch.where(truth <= 0.0, large.clamp(-SLACK, 0.0), truth)
        wanted = torch.where(truth >= 1.0, large.clamp(1.0, 1.0 + SLACK), wanted)
        lowest, highest = _nearby(truth)
    difference = large - wanted
    red, green, blue = difference.unbind(1)
    luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    stored = large.clamp(0.0, 1.0)
    beyond = stored - stored.clamp(lowest, highest)
    colours, brightness = RGB_WEIGHT * _huber(difference), LUMA_WEIGHT * _huber(luma)
    return colours + brightness + BEYOND_WEIGHT * _huber(beyond)


def _nearby(truth: Tensor) -> tuple[Tensor, Tensor]:
    """The least and greatest value of each channel in 3 x 3 small pixels: (N, 3, 1, H, W) each."""
    least, greatest = truth.amin(2), truth.amax(2)
    lowest = -functional.max_pool2d(-least, 3, stride=1, padding=1)
    highest = functional.max_pool2d(greatest, 3, stride=1, padding=1)
    return lowest[:, :, None], highest[:, :, None]


def _huber(difference: Tensor) -> Tensor:
    return functional.smooth_l1_loss(difference, torch.zeros_like(difference), beta=SOFTNESS)
