"""Reduction of pictures by a whole factor, with the kernels that real software uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from upscaled_models.esrgan.colour import lanczos

KERNELS = ("bicubic", "lanczos", "area", "soft", "light")
"""`light` averages areas of linear light; the others work on sRGB as it is stored."""

GRAPHIC_SHARES = (0.35, 0.1, 0.35, 0.05, 0.15)
"""Graphics are more often drawn at their size, which averages areas, than reduced from a larger
picture."""


def reduce_pictures(pictures: Tensor, scale: int, kernels: Tensor) -> Tensor:
    """(N, 3, H, W), 0 to 1, to (N, 3, H / scale, W / scale), rounded to 8 bits as files are.

    `kernels`, (N,), are indices into `KERNELS`, on the same device. H and W are multiples of
    `scale`.
    """
    down, right = (
        _matrices(length, scale, pictures.device)[kernels][:, None] for length in pictures.shape[2:]
    )
    light = (kernels == KERNELS.index("light"))[:, None, None, None]
    small = down @ torch.where(light, _linear(pictures), pictures) @ right.transpose(-1, -2)
    small = torch.where(light, _srgb(small), small)
    return (small.clamp(0.0, 1.0) * 255.0).round() / 255.0


def _linear(srgb: Tensor) -> Tensor:
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _srgb(light: Tensor) -> Tensor:
    bright = 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(light <= 0.0031308, light * 12.92, bright)


@cache
def _matrices(length: int, scale: int, device: torch.device) -> Tensor:
    """The resampling matrix of each of `KERNELS`: (kernels, length / scale, length)."""
    return torch.stack([_weights(kernel, length, scale) for kernel in KERNELS]).to(device)


def _weights(kernel: str, length: int, scale: int) -> Tensor:
    """The resampling matrix (length / scale, length), rows summing to 1; edges are renormalised."""
    function, support = _FUNCTIONS[kernel]
    centres = (torch.arange(length // scale, dtype=torch.float64) + 0.5) * scale
    samples = torch.arange(length, dtype=torch.float64) + 0.5
    distance = (samples[None, :] - centres[:, None]) / scale
    weights = torch.tensor(
        [[function(x) if abs(x) < support else 0.0 for x in row] for row in distance.tolist()]
    )
    return (weights / weights.sum(dim=1, keepdim=True)).to(torch.float32)


def _cubic(x: float) -> float:
    """Keys' cubic convolution with a = -0.5, as Pillow's BICUBIC."""
    x = abs(x)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0


def _area(_: float) -> float:
    return 1.0


def _gaussian(x: float) -> float:
    """A standard deviation of half a small pixel: a lens or a careful reduction in two steps."""
    return math.exp(-2.0 * x * x)


_FUNCTIONS: dict[str, tuple[Callable[[float], float], float]] = {
    "bicubic": (_cubic, 2.0),
    "lanczos": (lanczos, 3.0),
    "area": (_area, 0.5),
    "soft": (_gaussian, 2.0),
    "light": (_area, 0.5),
}
