"""A picture with the smooth and the busy parts of a photograph, of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyvips

_BLOCK_ROWS = 512


def write_photograph(path: Path, width: int, height: int) -> Path:
    """Write a picture that a PNG encoder finds neither trivial nor impossible, block by block."""
    blocks = [
        pyvips.Image.new_from_array(_rows(width, top, min(_BLOCK_ROWS, height - top)))
        for top in range(0, height, _BLOCK_ROWS)
    ]
    pyvips.Image.arrayjoin(blocks, across=1).crop(0, 0, width, height).write_to_file(str(path))
    return path


def _rows(width: int, top: int, height: int) -> np.ndarray:
    rows, columns = np.mgrid[top : top + height, 0:width].astype(np.float32)
    noise = np.random.default_rng(top).normal(0, 4, (height, width, 3))
    waves = 127 + 60 * np.sin(rows / 31) * np.cos(columns / 47) + 30 * np.sin(columns * rows / 9000)
    edges = 25 * np.sign(np.sin((columns + 2 * rows) / 60))
    pixels = (waves + edges)[..., np.newaxis] * np.array([1.0, 0.9, 0.8]) + noise
    block: np.ndarray = pixels.clip(0, 255).astype(np.uint8)
    return block
