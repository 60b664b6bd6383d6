"""The resolution of a file in dots per inch. libvips returns a number even if the file has none."""

from __future__ import annotations

import struct
from collections.abc import Callable

from upscaled_imaging.bmp import bmp_resolution
from upscaled_imaging.chunks import ReadAt, jpeg_segments, png_chunks
from upscaled_imaging.exif import resolution, tiff_resolution
from upscaled_imaging.metadata import METRES_PER_INCH
from upscaled_imaging.photoshop import resolution as photoshop_resolution

_JFIF, _JFIF_BYTES = b"JFIF\0", 12
_JFIF_UNITS = {1: 1.0, 2: 2.54}  # dots per inch, dots per centimetre; 0 is an aspect ratio
# The limit of `target_dpi`. A file with a higher resolution is broken.
_HIGHEST_DPI = 100_000
# Allowed between across and down, because PNG stores whole dots per metre.
_TOLERANCE = 0.01


def dots_per_inch(
    kind: str,
    read_at: ReadAt,
    exif: bytes | None,
    warn: Callable[[str], None],
    photoshop: bytes = b"",
) -> float | None:
    """The resolution in EXIF, else in the file's own format, else in Photoshop's resources.

    None if there is none, or no plausible one.
    """
    found = resolution(exif) if exif else None
    if found is None and kind in _READERS:
        found = _READERS[kind](read_at)
    if found is None or not all(found):
        found = photoshop_resolution(photoshop)
    if found is None or not all(1 <= dots <= _HIGHEST_DPI for dots in found):
        return None
    across, down = found
    if abs(across - down) > _TOLERANCE * across:
        warn(f"the input's pixels are not square ({across:g} by {down:g} dpi): no dpi was kept")
        return None
    return across


def _of_png(read_at: ReadAt) -> tuple[float, float] | None:
    for chunk in png_chunks(read_at):
        if chunk.kind == b"pHYs" and chunk.end - chunk.start == 9:
            across, down, unit = struct.unpack(">IIB", read_at(chunk.start, 9).ljust(9, b"\0"))
            metres = METRES_PER_INCH if unit == 1 else 0  # otherwise an aspect ratio
            return (across * metres, down * metres)
    return None


def _of_jpeg(read_at: ReadAt) -> tuple[float, float] | None:
    for segment in jpeg_segments(read_at):
        data = read_at(segment.start, _JFIF_BYTES)
        if segment.kind == b"\xe0" and data.startswith(_JFIF) and len(data) == _JFIF_BYTES:
            unit, across, down = struct.unpack(">BHH", data[7:])
            units = _JFIF_UNITS.get(unit, 0)
            return (across * units, down * units)
    return None


_READERS = {"png": _of_png, "jpeg": _of_jpeg, "tiff": tiff_resolution, "bmp": bmp_resolution}
