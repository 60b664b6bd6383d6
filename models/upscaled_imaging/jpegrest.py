"""Data that a JPEG's decoder has left over, because damage has shifted the picture.

libjpeg notices it behind the last row, which libvips does not reach. So the picture is decoded once
more, at an eighth of its size, as if it had one more row of blocks. If the data ends where it
should, nothing is left for that row, and libjpeg makes it gray behind its first blocks.
Source: ITU-T T.81, annex B (headers) and A.2 (interleaved blocks); libjpeg-turbo's jdhuff.c.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import pyvips

from upscaled_imaging.chunks import Chunk, ReadAt, jpeg_end, jpeg_segments
from upscaled_imaging.libvips import forget_reports
from upscaled_imaging.origin import Origin

_FRAMES, _RESTART_INTERVAL = (b"\xc0", b"\xc1"), b"\xdd"
_START_OF_SCAN = b"\xff\xda"
_BLOCK = 8
_LONGEST_SIDE = 65_500  # libjpeg's
# Data hardly ever ends in so many zeros.
_PADDING_BYTES = 8


class _Frame(NamedTuple):
    """height_at: the offset of the height. across, down: blocks per unit of the scan, which holds
    blocks of all components."""

    height_at: int
    height: int
    across: int
    down: int


def has_rest(origin: Origin) -> bool:
    """True if the decoder leaves data over. False for files in which it would not be noticed:
    those with restart markers or several scans, for which libjpeg reports damage itself."""
    frame = _frame(origin.read_at)
    if frame is None:
        return False
    rows = -(-frame.height // (_BLOCK * frame.down)) * frame.down
    taller = (rows + frame.down) * _BLOCK
    if not frame.height or taller > _LONGEST_SIDE:
        return False
    source = origin.changed({frame.height_at: struct.pack(">H", taller)})
    try:
        image = pyvips.Image.jpegload_source(
            source, shrink=_BLOCK, access="sequential", fail_on="none"
        )
        data = pyvips.Region.new(image).fetch(0, rows, image.width, 1)
    except pyvips.Error:
        return False
    forget_reports()  # the end of the data is one
    # The bits behind the last block are taken for the first blocks of the row.
    behind = np.frombuffer(data, np.uint8).reshape(image.width, image.bands)[frame.across :]
    return bool((behind != behind[-1:]).any()) and not is_padded(origin.read_at)


def is_padded(read_at: ReadAt) -> bool:
    """True if zeros fill up the data, as some cameras do: that is no damage."""
    end = jpeg_end(read_at) or 0
    return not any(read_at(max(end - _PADDING_BYTES, 0), _PADDING_BYTES))


def _frame(read_at: ReadAt) -> _Frame | None:
    """The frame of a sequential picture in one scan without restart markers."""
    found: Chunk | None = None
    end = 0
    for segment in jpeg_segments(read_at):
        end = segment.end
        if segment.kind in _FRAMES:
            found = segment
        elif segment.kind == _RESTART_INTERVAL and any(read_at(segment.start, 2)):
            return None
    if found is None:
        return None
    data = read_at(found.start, found.end - found.start)
    scan = read_at(end, 5)
    if len(data) < 9 or len(data) < 6 + 3 * data[5] or scan[:2] != _START_OF_SCAN:
        return None
    components = data[5]
    if scan[4:] != bytes([components]):
        return None
    sampling = [data[at] for at in range(7, 6 + 3 * components, 3)]
    across, down = max(value >> 4 for value in sampling), max(value & 15 for value in sampling)
    if components == 1:
        across = down = 1
    return _Frame(found.start + 1, int.from_bytes(data[1:3]), across, down)
