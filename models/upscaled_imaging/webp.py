"""A WebP: libvips encodes the pixels, and this module writes the container (exif.py says why).

The encoder needs the whole picture, whose size the format limits to 16,383 pixels per side.
Source: WebP container specification (RFC 9649).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from upscaled_imaging.chunks import webp_chunks
from upscaled_imaging.colour import as_rgb
from upscaled_imaging.libvips import image_of
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.rows import Picture

_DEFAULT_QUALITY = 90
_LOSSLESS = 100
_ICC_FLAG, _ALPHA_FLAG, _EXIF_FLAG, _XMP_FLAG = 0x20, 0x10, 0x08, 0x04


def write_webp(
    rows: Iterator[np.ndarray],
    file: BinaryIO,
    picture: Picture,
    metadata: Metadata,
    quality: int | None,
) -> None:
    """Write `rows`, 8 bits per channel; quality 100 is lossless. Gray is stored as RGB."""
    chosen = quality or _DEFAULT_QUALITY
    with image_of(rows, picture) as gray_or_rgb:
        image, icc = as_rgb(gray_or_rgb, metadata.icc)
        data = image.webpsave_buffer(
            Q=chosen,
            lossless=chosen == _LOSSLESS,
            exact=True,  # keeps colour under transparent pixels
            smart_subsample=True,
            keep="none",
        )
    chunks = webp_chunks(lambda at, count: data[at : at + count])
    pixels = [(kind, data[start:end]) for kind, start, end in chunks if kind != b"VP8X"]
    exif = metadata.exif_with_dpi()
    flags = _ALPHA_FLAG if picture.has_alpha else 0
    before, after = [], []
    if icc is not None:
        flags |= _ICC_FLAG
        before.append((b"ICCP", icc))
    if exif is not None:
        flags |= _EXIF_FLAG
        after.append((b"EXIF", exif))
    if metadata.xmp is not None:
        flags |= _XMP_FLAG
        after.append((b"XMP ", metadata.xmp))
    canvas = (picture.width - 1).to_bytes(3, "little") + (picture.height - 1).to_bytes(3, "little")
    extended = (b"VP8X", struct.pack("<I", flags) + canvas)
    body = b"".join(_chunk(*chunk) for chunk in (extended, *before, *pixels, *after))
    file.write(_chunk(b"RIFF", b"WEBP" + body))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
