"""A BMP, through Pillow: palettes, 16 bits per pixel, run lengths, alpha.

Source: Windows' BITMAPCOREHEADER, BITMAPINFOHEADER, BITMAPV4HEADER and BITMAPV5HEADER.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pyvips

from upscaled_imaging.chunks import ReadAt
from upscaled_imaging.formats import broken
from upscaled_imaging.metadata import METRES_PER_INCH
from upscaled_imaging.origin import Origin
from upscaled_imaging.pillow import load_by_pillow
from upscaled_protocol.errors import ErrorCode, JobError

# The bitmap header follows the file header, and begins with its own length.
_HEADER_AT, _CORE_BYTES, _V4_BYTES, _V5_BYTES = 14, 12, 108, 124
_RUN_LENGTHS = (1, 2)
# Pillow decodes run lengths in Python, and takes up to 0.1 us per pixel.
_MOST_RUN_LENGTH_PIXELS = 50_000_000
_EMBEDDED, _LINKED, _CALIBRATED = b"DEBM", b"KNIL", bytes(4)


def load_bmp(
    origin: Origin, check_size: Callable[[int, int], None], warn: Callable[[str], None]
) -> pyvips.Image:
    """The picture. Raises `JobError` (input_unreadable, unsupported_format, input_too_large,
    out_of_memory) and what `check_size` raises.
    """
    header = _header(origin.read_at)
    core = len(header) == _CORE_BYTES
    width, height = struct.unpack_from("<HH" if core else "<ii", header, 4)
    height = abs(height)  # negative if the first row is the top one
    if width <= 0 or height == 0:
        raise broken("it has no width or no height")
    check_size(width, height)
    compression = 0 if core else int.from_bytes(header[16:20], "little")
    if compression in _RUN_LENGTHS and width * height > _MOST_RUN_LENGTH_PIXELS:
        raise JobError(
            ErrorCode.INPUT_TOO_LARGE,
            f"the input is a BMP with run lengths of {width * height / 1e6:.1f} megapixels; the "
            f"limit is {_MOST_RUN_LENGTH_PIXELS / 1e6:g}: convert it to PNG",
        )
    from PIL.BmpImagePlugin import BmpImageFile

    fields = {"icc-profile-data": _profile(header, origin.read_at, warn)}
    return load_by_pillow(BmpImageFile, origin, fields, warn)


def bmp_resolution(read_at: ReadAt) -> tuple[float, float] | None:
    """Dots per inch across and down; None if the file has no resolution."""
    header = _header(read_at)
    if len(header) < 40:
        return None
    across, down = struct.unpack_from("<ii", header, 24)
    return across * METRES_PER_INCH, down * METRES_PER_INCH


def _header(read_at: ReadAt) -> bytes:
    length = int.from_bytes(read_at(_HEADER_AT, 4), "little")
    header = read_at(_HEADER_AT, min(length, _V5_BYTES))
    if len(header) < _CORE_BYTES or (length > _CORE_BYTES and len(header) < 40):
        raise broken("its header is cut off")
    return header


def _profile(header: bytes, read_at: ReadAt, warn: Callable[[str], None]) -> bytes | None:
    if len(header) < _V4_BYTES:
        return None
    space = header[56:60]
    if space == _EMBEDDED and len(header) == _V5_BYTES:
        at, size = struct.unpack_from("<II", header, 112)
        return read_at(_HEADER_AT + at, size) or None
    if space == _LINKED:
        warn("the input's colour profile is in another file: it was left out")
    elif space == _CALIBRATED and any(header[60:108]):
        warn(
            "the input's colour tags cannot be read: they were left out, and the colours may look "
            "wrong"
        )
    return None
