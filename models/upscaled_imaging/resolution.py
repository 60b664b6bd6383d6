"""The resolution of a file in dots per inch. libvips returns a number even if the file has none."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from upscaled_imaging.bmp import bmp_resolution
from upscaled_imaging.chunks import ReadAt, jpeg_segments, png_chunks
from upscaled_imaging.exif import resolution, tiff_resolution
from upscaled_imaging.heifitem import HEIF_KINDS, pixel_ratio
from upscaled_imaging.metadata import METRES_PER_INCH
from upscaled_imaging.photoshop import resolution as photoshop_resolution

_JFIF, _JFIF_BYTES = b"JFIF\0", 12
_JFIF_UNITS = {1: 1.0, 2: 2.54}  # dots per inch, dots per centimetre; 0 is a ratio
# The limit of `target_dpi`. A file with a higher resolution is broken.
_HIGHEST_DPI = 100_000
# Allowed between across and down, because PNG stores whole dots per metre.
_TOLERANCE = 0.01


class _Density(NamedTuple):
    """Dots per unit of length, and units per inch: 0 if the file states only their ratio."""

    across: float
    down: float
    per_inch: float = 1.0

    @property
    def is_oblong_ratio(self) -> bool:
        """True if the file states only that its pixels are not square. Zeros state nothing."""
        stated = self.across > 0 and self.down > 0 and not self.per_inch
        return stated and not _is_square(self.across, self.down)


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
    own = _READERS[kind](read_at) if kind in _READERS else None
    found = resolution(exif) if exif else None
    if found is None and own is not None:
        found = (own.across * own.per_inch, own.down * own.per_inch)
    if found is None or not all(found):
        found = photoshop_resolution(photoshop)
    if found is None and own is not None and own.is_oblong_ratio:
        warn(
            f"the input's pixels are not square ({own.across:g} by {own.down:g} per unit of "
            "length): no output keeps that"
        )
    if found is None or not all(1 <= dots <= _HIGHEST_DPI for dots in found):
        return None
    across, down = found
    if not _is_square(across, down):
        warn(f"the input's pixels are not square ({across:g} by {down:g} dpi): no dpi was kept")
        return None
    return across


def _is_square(across: float, down: float) -> bool:
    return abs(across - down) <= _TOLERANCE * across


def _of_png(read_at: ReadAt) -> _Density | None:
    for chunk in png_chunks(read_at):
        if chunk.kind == b"pHYs" and chunk.end - chunk.start == 9:
            across, down, unit = struct.unpack(">IIB", read_at(chunk.start, 9).ljust(9, b"\0"))
            return _Density(across, down, METRES_PER_INCH if unit == 1 else 0)
    return None


def _of_jpeg(read_at: ReadAt) -> _Density | None:
    for segment in jpeg_segments(read_at):
        data = read_at(segment.start, _JFIF_BYTES)
        if segment.kind == b"\xe0" and data.startswith(_JFIF) and len(data) == _JFIF_BYTES:
            unit, across, down = struct.unpack(">BHH", data[7:])
            return _Density(across, down, _JFIF_UNITS.get(unit, 0))
    return None


def _per_inch(
    reader: Callable[[ReadAt], tuple[float, float] | None], read_at: ReadAt
) -> _Density | None:
    found = reader(read_at)
    return None if found is None else _Density(*found)


def _of_heif(read_at: ReadAt) -> _Density | None:
    found = pixel_ratio(read_at)
    return None if found is None else _Density(*found, per_inch=0)


_READERS: dict[str, Callable[[ReadAt], _Density | None]] = {
    "png": _of_png,
    "jpeg": _of_jpeg,
    "tiff": partial(_per_inch, tiff_resolution),
    "bmp": partial(_per_inch, bmp_resolution),
    **dict.fromkeys(HEIF_KINDS, _of_heif),
}
