"""How noisy a picture is: the energy of the finest frequencies in its smoothest blocks.

White noise has the same energy at all frequencies. A picture has less energy at finer frequencies,
and hardly any at the finest. Noise that was smoothed or compressed away is not found, and grain
that is coarser than a pixel is not found either.

Source: N. N. Ponomarenko, V. V. Lukin, M. S. Zriakhov, A. Kaarna and J. Astola, "An automatic
approach to lossy compression of AVIRIS images", IGARSS 2007: the blocks with the least energy at
low frequencies show the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from upscaled_imaging.blockdct import FREQUENCY, blocks_of, coefficients

# Black and white cut noise off: blocks with more of such pixels are left out.
_MOST_CLIPPED = 0.2
_LEAST_BLOCKS = 8
# The smoothest tenth of the blocks.
_SHARE = 10
# Noise has as much energy at middle frequencies as at the finest ones: 0.97 to 1.4 times the
# amplitude on photographs. Sharp textures have 1.5 times and more, line art 0.86 and less.
_LEAST_MIDDLE, _MOST_MIDDLE = 0.9, 1.45
# Stronger than the noise of any photograph that is worth to be enlarged: it is a pattern.
_MOST_NOISE = 30.0


def noise_level(windows: Sequence[np.ndarray]) -> float:
    """The standard deviation of the noise in one channel, in levels of 255; 0 if none is found.

    windows: (H, W, C) of float32, 0 to 255, parts of the picture at its own size. Pixels that do
    not count are 0.
    """
    blocks = np.concatenate([_blocks(window) for window in windows])
    clipped = ((blocks <= 0) | (blocks >= 255)).mean(axis=(2, 3)).max(axis=1)
    blocks = blocks[clipped <= _MOST_CLIPPED]
    if len(blocks) < _LEAST_BLOCKS:
        return 0.0
    energies = coefficients(blocks) ** 2
    low, middle, finest = (
        energies[..., (first <= FREQUENCY) & (last >= FREQUENCY)].mean(axis=(1, 2))
        for first, last in ((1, 3), (5, 7), (10, 14))
    )
    smoothest = np.argsort(low)[: max(_LEAST_BLOCKS, len(low) // _SHARE)]
    noise = math.sqrt(float(np.median(finest[smoothest])))
    detail = math.sqrt(float(np.median(middle[smoothest])))
    is_white = _LEAST_MIDDLE * noise <= detail <= _MOST_MIDDLE * noise
    return noise if is_white and noise <= _MOST_NOISE else 0.0


def _blocks(window: np.ndarray) -> np.ndarray:
    """(blocks, channels, 8, 8)"""
    channels = [blocks_of(window[:, :, channel]) for channel in range(window.shape[2])]
    return np.stack(channels, axis=1)
