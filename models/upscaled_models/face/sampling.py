"""Values between the pixels of a picture."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from upscaled_models.face.faces import Floats


def centres(left: int, top: int, width: int, height: int) -> NDArray[np.float64]:
    """The centres of the pixels of a window, (height, width, 2), x and y."""
    rows, columns = np.mgrid[top : top + height, left : left + width]
    return np.stack((columns, rows), axis=-1) + 0.5


def to_planes(pixels: Floats) -> Tensor:
    """(h, w, C) to (1, C, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


def sample(planes: Tensor, positions: NDArray[np.float64]) -> Floats:
    """The values of planes (1, C, h, w) at positions (H, W, 2): (H, W, C), bicubic.

    positions: 0 to 1 of the width and the height. Beyond them the outermost pixels continue.
    """
    grid = torch.from_numpy((2 * positions - 1).astype(np.float32))[None]
    with torch.inference_mode():
        found = functional.grid_sample(
            planes, grid, mode="bicubic", padding_mode="border", align_corners=False
        )
    values: Floats = found[0].permute(1, 2, 0).numpy()
    return values
