"""Texture fields: noise with a chosen spectrum, direction and shape."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def field(rng: np.random.Generator, side: int) -> Floats:
    """A texture that wraps around: (side, side), mean 0, standard deviation 1, within +-4."""
    texture = _power_law(
        rng,
        side,
        falloff=rng.uniform(0.3, 1.8),
        finest=np.exp(rng.uniform(np.log(0.04), np.log(0.5))),
        coarsest=rng.uniform(0.5, 16.0) / side,
        stretch=rng.choice([1.0, np.exp(rng.uniform(0.3, 2.5))], p=[0.5, 0.5]),
    )
    shape = rng.choice(["plain", "sparse", "ridged", "blotched", "contoured", "striped"])
    if shape == "sparse":
        texture = np.sign(texture) * np.abs(texture) ** 2
    elif shape == "ridged":
        texture = -np.abs(texture)
    elif shape == "blotched":
        texture = np.tanh(rng.uniform(1.0, 5.0) * texture)
    elif shape == "contoured":
        texture = np.sin(rng.uniform(1.0, 4.0) * texture)
    elif shape == "striped":
        texture = _stripes(rng, texture)
    texture = texture - texture.mean()
    texture = texture / max(float(texture.std()), 1e-6)
    bounded: Floats = np.clip(texture, -4.0, 4.0).astype(np.float32)
    return bounded


def _power_law(
    rng: np.random.Generator,
    side: int,
    *,
    falloff: float,
    finest: float,
    coarsest: float,
    stretch: float,
) -> Floats:
    """Gaussian noise whose amplitude falls as frequency ** -falloff: (side, side), unit variance.

    `finest` and `coarsest` bound the band, in cycles per pixel. `stretch` above 1 draws the grain
    out along a random direction, as in fur, wood or brushed metal.
    """
    angle = rng.uniform(0.0, np.pi)
    down = np.fft.fftfreq(side).astype(np.float32)[:, None]
    right = np.fft.rfftfreq(side).astype(np.float32)[None, :]
    along = (np.cos(angle) * down + np.sin(angle) * right) * np.float32(stretch)
    across = np.cos(angle) * right - np.sin(angle) * down
    squared = along * along + across * across + np.float32(coarsest**2)
    amplitude = squared ** np.float32(-falloff / 2) * np.exp(-squared / np.float32(finest**2))
    noise = np.fft.rfft2(rng.standard_normal((side, side), dtype=np.float32))
    texture = np.fft.irfft2(noise * amplitude, s=(side, side))
    texture /= max(float(texture.std()), 1e-9)
    return texture.astype(np.float32, copy=False)


def _stripes(rng: np.random.Generator, warp: Floats) -> Floats:
    """A grating bent by `warp`: cloth, blinds, ripples. The period is 5 to 60 pixels."""
    side = warp.shape[0]
    angle = rng.uniform(0.0, np.pi)
    period = np.exp(rng.uniform(np.log(5.0), np.log(60.0)))
    rows, columns = np.ogrid[:side, :side]
    phase = (rows * np.cos(angle) + columns * np.sin(angle)) * (2 * np.pi / period)
    wave = np.sin(phase + rng.uniform(0.0, 1.5) * warp + rng.uniform(0.0, side))
    hardness = rng.uniform(0.5, 4.0)
    grating: Floats = np.tanh(hardness * wave).astype(np.float32)
    return grating
