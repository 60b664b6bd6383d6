"""A TIFF, written strip by strip: deflate with the horizontal predictor, BigTIFF if it is large.

libvips writes no EXIF into a TIFF, and takes several times the processor time. libtiff, Photoshop,
ImageMagick, GIMP and the viewers of operating systems all read deflate.
Source: TIFF 6.0 (Adobe, 1992), sections 8, 14 and 18; Photoshop TIFF technical notes (2002).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from isal import isal_zlib

from upscaled_imaging.exif import descriptive_tags
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.rows import Picture, in_blocks
from upscaled_imaging.tags import (
    BIG_HEADER_BYTES,
    Tag,
    TagType,
    header,
    long,
    long8,
    pack,
    rational,
    short,
)

# A reader decodes whole strips: small ones suit editors, large ones compress better.
_STRIP_BYTES = 256 * 1024
_LEVEL = 1
_LAST_SMALL_OFFSET = 2**32 - 1


def write_tiff(
    rows: Iterator[np.ndarray], file: BinaryIO, picture: Picture, metadata: Metadata
) -> None:
    """Write `rows` to `file`, which must be empty and seekable.

    The first 16 bytes are kept free for the header. It is written at the end: only then the size is
    known, which decides between TIFF and BigTIFF.
    """
    strip_rows = min(picture.height, max(1, _STRIP_BYTES // picture.row_bytes))
    file.write(bytes(BIG_HEADER_BYTES))
    starts, lengths = [], []
    for block in in_blocks(rows, strip_rows):
        differences = block.copy()
        np.subtract(block[:, 1:], block[:, :-1], out=differences[:, 1:])
        data = isal_zlib.compress(differences.astype(f"<u{block.itemsize}", copy=False), _LEVEL)
        starts.append(file.tell())
        lengths.append(len(data))
        file.write(data)
    file.write(bytes(file.tell() % 2))
    at = file.tell()
    tags = _tags(picture, metadata, strip_rows)
    directory = pack([*tags, long8(273, starts), long8(279, lengths)], at, big=True)
    big = at + len(directory) > _LAST_SMALL_OFFSET
    if not big:
        directory = pack([*tags, long(273, *starts), long(279, *lengths)], at)
    file.write(directory)
    file.seek(0)
    file.write(header(at, big=big))


def _tags(picture: Picture, metadata: Metadata, strip_rows: int) -> list[Tag]:
    tags = [
        long(256, picture.width),
        long(257, picture.height),
        short(258, *[picture.bits] * picture.bands),
        short(259, 8),  # deflate
        short(262, 1 if picture.bands < 3 else 2),  # black is zero, or RGB
        short(274, 1),  # upright
        short(277, picture.bands),
        long(278, strip_rows),
        short(284, 1),  # channels side by side
        short(317, 2),  # horizontal predictor
        short(339, *[1] * picture.bands),  # unsigned integers
    ]
    if picture.has_alpha:
        tags.append(short(338, 2))  # straight alpha
    if metadata.dpi is not None:
        tags += [rational(282, metadata.dpi), rational(283, metadata.dpi), short(296, 2)]
    if metadata.icc is not None:
        tags.append(Tag(34675, TagType.UNDEFINED, metadata.icc))
    if metadata.iptc is not None:
        tags.append(Tag(33723, TagType.UNDEFINED, metadata.iptc))
    if metadata.xmp is not None:
        tags.append(Tag(700, TagType.BYTE, metadata.xmp))
    if metadata.exif is not None:
        tags += descriptive_tags(metadata.exif)
    return tags
