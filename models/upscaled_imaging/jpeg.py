"""A JPEG: libvips encodes the pixels row by row, and this module writes the segments before them.

libvips would write EXIF through libexif (see exif.py), and no JFIF header if there is EXIF.
Source: JFIF 1.02; ICC.1:2022 annex B.4; XMP part 3, 1.1.3; Exif 2.32, 4.7.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyvips

from upscaled_imaging.libvips import image_of
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.photoshop import IPTC, resource
from upscaled_imaging.rows import Picture

# Losses cannot be seen, at a tenth of a PNG's size.
_DEFAULT_QUALITY = 95
_START = b"\xff\xd8"
_EXIF_NAME = b"Exif\0\0"
_XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"
_ICC_NAME = b"ICC_PROFILE\0"
_SEGMENT_BYTES = 65_533
MAX_EXIF_BYTES = _SEGMENT_BYTES - len(_EXIF_NAME)
MAX_XMP_BYTES = _SEGMENT_BYTES - len(_XMP_NAME)
_ICC_PART_BYTES = _SEGMENT_BYTES - len(_ICC_NAME) - 2
MAX_COMMENT_BYTES = _SEGMENT_BYTES
_IPTC_NAME = b"Photoshop 3.0\0"
# The segment holds 12 bytes of Photoshop's besides, and the records are padded to even length.
MAX_IPTC_BYTES = _SEGMENT_BYTES - len(_IPTC_NAME) - 13
MAX_ICC_BYTES = 255 * _ICC_PART_BYTES  # one byte holds the number of parts


def write_jpeg(
    rows: Iterator[np.ndarray],
    file: BinaryIO,
    picture: Picture,
    metadata: Metadata,
    quality: int | None,
) -> None:
    """Write `rows`, 8 bits and no alpha, with full chroma resolution (4:4:4)."""
    failures: list[Exception] = []
    written = 0

    def write(data: bytes) -> int:
        nonlocal written
        try:
            if written == 0:
                file.write(_START + _segments(metadata) + data[len(_START) :])
            else:
                file.write(data)
        except Exception as error:  # noqa: BLE001 - must not unwind through C code
            failures.append(error)
            return -1
        written += len(data)
        return len(data)

    target = pyvips.TargetCustom()
    target.on_write(write)
    with image_of(rows, picture) as image:
        try:
            image.jpegsave_target(
                target, Q=quality or _DEFAULT_QUALITY, subsample_mode="off", keep="none"
            )
        except pyvips.Error:
            if failures:
                raise failures[0] from None
            raise


def _segments(metadata: Metadata) -> bytes:
    dots = round(metadata.dpi or 0)
    density = (
        struct.pack(">BHH", 1, dots, dots) if 0 < dots < 65536 else struct.pack(">BHH", 0, 1, 1)
    )
    segments = _segment(0xE0, b"JFIF\0\1\2" + density + bytes(2))
    # JFIF stores whole dots in 16 bits.
    exif = metadata.exif if dots == metadata.dpi and dots < 65536 else metadata.exif_with_dpi()
    if exif is not None:
        segments += _segment(0xE1, _EXIF_NAME + exif)
    if metadata.xmp is not None:
        segments += _segment(0xE1, _XMP_NAME + metadata.xmp)
    if metadata.iptc is not None:
        segments += _segment(0xED, _IPTC_NAME + resource(IPTC, metadata.iptc))
    icc = metadata.icc or b""
    parts = [icc[at : at + _ICC_PART_BYTES] for at in range(0, len(icc), _ICC_PART_BYTES)]
    for number, part in enumerate(parts, 1):
        segments += _segment(0xE2, _ICC_NAME + bytes([number, len(parts)]) + part)
    for text in metadata.texts:
        segments += _segment(0xFE, text.text.encode())
    return segments


def _segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data
