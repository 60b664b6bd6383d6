"""Pictures written through a sink without an engine, and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from upscaled_imaging.destinations import Base64Destination, FileDestination
from upscaled_imaging.dimensions import Plan
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.output import Output
from upscaled_imaging.write import Sink, open_sink
from upscaled_protocol.messages import Size


def output_at(
    path: Path | None, kind: Any, width: int, height: int, quality: int | None = None
) -> Output:
    size = Size(width=width, height=height)
    destination = Base64Destination() if path is None else FileDestination(path)
    return Output(destination, kind, quality, Plan(1.0, size, size), Metadata())


def write_file(
    path: Path | None, kind: Any, pixels: np.ndarray, *, quality: int | None = None
) -> None:
    height, width, bands = pixels.shape
    output = output_at(path, kind, width, height, quality)
    size = Size(width=width, height=height)
    with open_sink(output, size, bands, pixels.itemsize * 8) as sink:
        sink.write(pixels)
        sink.commit()


def write_rows(sink: Sink, count: int) -> None:
    for _ in range(count):
        sink.write(np.zeros((1, 100, 3), np.uint8))


def pixels_in(path: Path) -> np.ndarray:
    image = pyvips.Image.new_from_file(str(path), fail_on="warning")
    return np.ndarray(
        buffer=image.write_to_memory(),
        dtype=np.uint16 if image.format == "ushort" else np.uint8,
        shape=(image.height, image.width, image.bands),
    )
