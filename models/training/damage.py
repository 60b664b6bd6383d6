"""What happens to pictures on the web: a slight blur, noise, and JPEG with coarse colours."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from training.camera import blur

UNDAMAGED = 0.2
"""The share of pictures left as they are: the network must not harm a clean one."""

BLURRED, NOISY, COMPRESSED = 0.3, 0.4, 0.75
"""The shares of the others that get each kind of damage, in this order."""

SUBSAMPLING = ("4:4:4", "4:2:2", "4:2:0")
SUBSAMPLING_SHARES = (0.25, 0.15, 0.6)


def damage_picture(rng: np.random.Generator, small: Tensor) -> Tensor:
    """(1, 3, H, W), 0 to 1 in 8 bits, to the same, as a careless user would have stored it."""
    if rng.random() < UNDAMAGED:
        return small
    pixels = small[0].permute(1, 2, 0).numpy()
    if rng.random() < BLURRED:
        pixels = _blurred(pixels, rng.uniform(0.2, 0.8))
    if rng.random() < NOISY:
        pixels = pixels + _noise(rng, pixels)
    levels = np.rint(np.clip(pixels, 0.0, 1.0) * 255.0).astype(np.uint8)
    if rng.random() < COMPRESSED:
        levels = _compressed(rng, levels)
    return torch.from_numpy(levels.copy()).permute(2, 0, 1)[None].to(torch.float32) / 255.0


def _blurred(pixels: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Blurred by `sigma` pixels; the picture is mirrored beyond its edges."""
    margin = min(4, *(length - 1 for length in pixels.shape[:2]))
    wide = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    return blur(wide, sigma)[margin:-margin, margin:-margin]


def _noise(rng: np.random.Generator, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Up to 12 levels, coloured or gray, and sometimes more in the light parts."""
    channels = 1 if rng.random() < 0.4 else 3
    noise = rng.standard_normal((*pixels.shape[:2], channels), dtype=np.float32)
    noise = noise * np.float32(rng.uniform(1.0, 12.0) / 255.0)
    if rng.random() < 0.5:
        noise = noise * np.sqrt(np.clip(pixels, 0.02, 1.0))
    return np.broadcast_to(noise, pixels.shape)


def _compressed(rng: np.random.Generator, levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Through a JPEG of quality 30 to 95."""
    buffer = io.BytesIO()
    subsampling = str(rng.choice(SUBSAMPLING, p=SUBSAMPLING_SHARES))
    quality = int(rng.integers(30, 96))
    Image.fromarray(levels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(buffer), dtype=np.uint8)
