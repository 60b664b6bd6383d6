"""What happens to pictures on the web: a slight blur, noise, and JPEG with coarse colours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.jpeg import SUBSAMPLING, compress

UNDAMAGED = 0.2
"""The share of pictures left as they are: the network must not harm a clean one."""

BLURRED, NOISY, COMPRESSED = 0.3, 0.4, 0.75
"""The shares of the others that get each kind of damage, in this order."""

SUBSAMPLING_SHARES = (0.25, 0.15, 0.6)
"""How often each of `SUBSAMPLING` is used."""

QUALITIES = (30, 96)
"""From and below: of JPEG, as libjpeg counts."""


def damage_pictures(rng: np.random.Generator, small: Tensor) -> Tensor:
    """(N, 3, H, W), 0 to 1 in 8 bits, to the same, each as a careless user would have stored it.

    H and W are even.
    """
    count = len(small)

    def drawn(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(small.device)

    damaged = rng.random(count) >= UNDAMAGED
    blurred = damaged & (rng.random(count) < BLURRED)
    noisy = damaged & (rng.random(count) < NOISY)
    compressed = damaged & (rng.random(count) < COMPRESSED)
    pixels = _blurred(small, drawn(np.where(blurred, rng.uniform(0.2, 0.8, count), 0.0)))
    deviation = drawn(np.where(noisy, rng.uniform(1.0, 12.0, count) / 255.0, 0.0))
    gray, rising = drawn(rng.random(count) < 0.4), drawn(rng.random(count) < 0.5)
    noise = torch.Generator(small.device).manual_seed(int(rng.integers(1 << 62)))
    pixels = pixels + _noise(noise, pixels, deviation, gray > 0, rising > 0)
    levels = (pixels.clamp(0.0, 1.0) * 255.0).round()
    subsampling = drawn(rng.choice(len(SUBSAMPLING), count, p=SUBSAMPLING_SHARES))
    quality = drawn(rng.integers(*QUALITIES, count))
    stored = torch.where(
        _each(drawn(compressed)) > 0, compress(levels, quality, subsampling), levels
    )
    return stored / 255.0


def _blurred(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Each picture blurred by its `sigma` pixels, 0 to 1; at the edges the weights sum to 1."""
    down, right = (_gaussian(length, sigma) for length in pixels.shape[2:])
    blurred = down @ pixels @ right.transpose(-1, -2)
    return torch.where(_each(sigma) > 0.0, blurred, pixels)


def _gaussian(length: int, sigma: Tensor) -> Tensor:
    """The matrices (N, 1, length, length) of a blur along one axis."""
    place = torch.arange(length, device=sigma.device, dtype=sigma.dtype)
    distance = (place[:, None] - place[None]) / _each(sigma).clamp(min=1e-2)
    weights = torch.exp(-0.5 * distance * distance)
    return weights / weights.sum(dim=-1, keepdim=True)


def _noise(
    generator: torch.Generator, pixels: Tensor, deviation: Tensor, gray: Tensor, rising: Tensor
) -> Tensor:
    """Of the `deviation`; the same in all channels if `gray`, more in the light if `rising`."""
    noise = torch.empty_like(pixels).normal_(generator=generator)
    noise = torch.where(_each(gray), noise[:, :1], noise) * _each(deviation)
    return torch.where(_each(rising), noise * pixels.clamp(0.02, 1.0).sqrt(), noise)


def _each(values: Tensor) -> Tensor:
    """(N,) to (N, 1, 1, 1)."""
    return values[:, None, None, None]
