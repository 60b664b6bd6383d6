"""Any weights file that the worker can load, as an enlarger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from upscaled_bench.evaluation.enlargers import Enlarger, Pixels
from upscaled_models.esrgan.loading import load_descriptor


def weights_file(path: Path, dtype: torch.dtype = torch.float32) -> Enlarger:
    """The network in the file `path`, of any architecture, computed in one piece in `dtype`.

    Raises `JobError` if the worker could not load it either.
    """
    descriptor = load_descriptor(path)
    descriptor.to(dtype=dtype)
    channels = descriptor.input_channels

    def enlarge(small: Pixels) -> Pixels:
        pixels = torch.from_numpy(small.copy()).permute(2, 0, 1)[None].to(dtype) / 255.0
        if channels == 1:
            pixels = pixels.transpose(0, 1)  # each colour as a gray picture
        with torch.inference_mode():
            large = descriptor(pixels).to(torch.float32)
        large = large.transpose(0, 1)[0] if channels == 1 else large[0]
        rounded = (large.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
        return np.asarray(rounded.permute(1, 2, 0).numpy())

    return Enlarger(path.stem, descriptor.scale, enlarge)
