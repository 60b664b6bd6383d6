"""The error that training makes small."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SOFTNESS = 0.04
"""Errors below this (of 1.0) count by their square, as PSNR does, and larger ones linearly: a few
hard edges would otherwise outweigh all of the texture."""

LUMA = (0.299, 0.587, 0.114)
"""The shares of red, green and blue in brightness, as JPEG has them."""

LUMA_WEIGHT = 1.0
"""Of the error in brightness, beside the error in red, green and blue. Without it most of the gain
is in colour, which the eye sees least."""


def picture_loss(large: Tensor, truth: Tensor) -> Tensor:
    """The error of `large` against `truth`, both (N, 3, parts, H, W), 0 to 1.

    `parts` are the pixels that the pixel shuffle will put side by side; comparing before the
    shuffle spares it and its gradient.

    Below 0 and above 1 the result is clipped when it is stored. So a value beyond the range is
    right if the truth lies at that end of the range. This lets a network hold black and pure
    colours exactly, since it need not hit 0 and 1.
    """
    with torch.no_grad():
        wanted = torch.where(truth <= 0.0, large.clamp(max=0.0), truth)
        wanted = torch.where(truth >= 1.0, large.clamp(min=1.0), wanted)
    difference = large - wanted
    luma = torch.einsum("nc...,c->n...", difference, difference.new_tensor(LUMA))
    return _huber(difference) + LUMA_WEIGHT * _huber(luma)


def _huber(difference: Tensor) -> Tensor:
    return functional.smooth_l1_loss(difference, torch.zeros_like(difference), beta=SOFTNESS)
