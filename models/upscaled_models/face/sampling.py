"""Values between the pixels of a picture."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from upscaled_models.face.faces import Floats


def to_planes(pixels: Floats) -> Tensor:
    """(h, w, C) to (1, C, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


def sample(planes: Tensor, positions: Floats, size: tuple[float, float]) -> Floats:
    """The values of planes (1, C, h, w) at positions (H, W, 2), x and y: (H, W, C), bicubic.

    size: of the planes in the unit of the positions. Beyond it the outermost values continue.
    """
    grid = torch.from_numpy(positions * (2 / np.array(size, np.float32)) - np.float32(1))[None]
    with torch.inference_mode():
        found = functional.grid_sample(
            planes, grid, mode="bicubic", padding_mode="border", align_corners=False
        )
    values: Floats = found[0].permute(1, 2, 0).numpy()
    return values
