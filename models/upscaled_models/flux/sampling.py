"""Improves the latents of tiles: noise is added, and removed in steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from upscaled_models.flux.text import Embeddings
from upscaled_models.flux.transformer import Transformer

# Entries of ComfyUI's table of noise levels.
_TABLE = 10_000
# For a smaller value all steps have the table's lowest level too, and its inverse may overflow.
_LEAST_DENOISE = 1e-9
# Noise is drawn in blocks of so many latents to each side.
_BLOCK = 32


def noise_levels(steps: int, denoise: float, shift: float) -> list[float]:
    """The levels (sigmas) that `steps` model calls go through, from the highest down to 0.

    The same as ComfyUI's `simple` scheduler: the last `steps` of a schedule that begins with pure
    noise and is 1 / denoise times as long. Empty if `denoise` is 0. shift: e to the power of FLUX's
    mu.
    """
    if denoise == 0:
        return []
    # 1e-6, so that a quotient like 9.9999999 does not lose a step.
    whole = int(steps / max(denoise, _LEAST_DENOISE) + 1e-6)
    times = [1 - (whole - left) * _TABLE // whole / _TABLE for left in range(steps, 0, -1)]
    return [*(shift * time / (1 + (shift - 1) * time) for time in times), 0.0]


class NoiseField:
    """Noise over a whole plane of latents. Each place has the same noise in every tile."""

    def __init__(self, seed: int, channels: int) -> None:
        self._seed = seed
        self._channels = channels

    def region(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Normal noise of that part of the plane, (channels, height, width) in float32."""
        first_row, first_column = top // _BLOCK, left // _BLOCK
        rows = range(first_row, (top + height - 1) // _BLOCK + 1)
        columns = range(first_column, (left + width - 1) // _BLOCK + 1)
        blocks = [np.concatenate([self._block(y, x) for x in columns], axis=2) for y in rows]
        down, right = top - first_row * _BLOCK, left - first_column * _BLOCK
        whole = np.concatenate(blocks, axis=1)
        return torch.from_numpy(whole[:, down : down + height, right : right + width].copy())

    def _block(self, row: int, column: int) -> np.ndarray:
        generator = np.random.Generator(np.random.Philox([self._seed, row, column]))
        return generator.standard_normal((self._channels, _BLOCK, _BLOCK), np.float32)


def denoise_tiles(
    transformer: Transformer,
    latents: Tensor,
    noise: Tensor,
    levels: Sequence[float],
    *,
    guidance: float,
    embeddings: Embeddings,
    each_step: Callable[[int], None],
) -> Tensor:
    """Add `noise` to latents (B, C, h, w) up to the first level, and remove it (Euler's method).

    each_step: called before each model call with the number of calls so far. It may raise.
    """
    tiles = latents * (1 - levels[0]) + noise.to(latents.device) * levels[0]
    for step, (level, below) in enumerate(itertools.pairwise(levels)):
        each_step(step)
        velocity = transformer.predict(tiles, level, guidance, embeddings)
        tiles = tiles + velocity * (below - level)
    return tiles
