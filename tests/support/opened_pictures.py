"""Files to open, what comes out of them, and what their errors say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from upscaled_imaging.read import Source
from upscaled_protocol.errors import JobError

Opener = Callable[..., Any]
RNG = np.random.default_rng(7)
RGB = RNG.integers(0, 256, (37, 53, 3), dtype=np.uint8)
ORIENTATION = 274


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def read_all(source: Source, count: int = 1000) -> np.ndarray:
    blocks = []
    while source.rows_left:
        blocks.append(source.rows(count))
    return np.concatenate(blocks)


def error_of(opened: Opener, **fields: Any) -> JobError:
    with pytest.raises(JobError) as caught, opened(**fields) as source:
        read_all(source)
    assert "\n" not in caught.value.message
    return caught.value
