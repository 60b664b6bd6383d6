"""Arrays as TIFF files: writes them without compression, and reads those of the daemon.

TIFF keeps 16 bits per channel and alpha. Pillow does not, for pictures in colour.
Source: TIFF 6.0 (Adobe, 1992), sections 2, 8 and 14; BigTIFF (Joris Van Damme, 2007).
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

# The struct format of one value, by TIFF's type.
_FORMATS = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _CHANNELS, _ROWS_PER_STRIP, _STRIP_BYTES = 273, 277, 278, 279
_PREDICTOR, _EXTRA, _SAMPLE_FORMAT = 317, 338, 339
_NONE, _DEFLATE = 1, 8
_HORIZONTAL = 2
_STRAIGHT_ALPHA = 2
_HEADER_BYTES = 16


def write_array(array: Array, file: BinaryIO) -> None:
    """Write (H, W) or (H, W, C), C of 1 to 4, uint8 or uint16: gray, gray and alpha, RGB, or RGBA.

    Raises `ValueError` for any other array.
    """
    import numpy as np

    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise ValueError(
            f"an array of {array.dtype} is no picture here: give uint8 or uint16, of floats from 0 "
            "to 1 for instance (array * 65535).round().astype('uint16')"
        )
    rows = array[:, :, None] if array.ndim == 2 else array
    if rows.ndim != 3 or not 1 <= rows.shape[2] <= 4 or 0 in rows.shape:
        raise ValueError(
            f"an array of shape {array.shape} is no picture here: give (height, width) or "
            "(height, width, 1 to 4 channels)"
        )
    height, width, channels = rows.shape
    data = np.ascontiguousarray(rows, dtype=f"<u{rows.itemsize}")
    tags: list[tuple[int, list[int]]] = [
        (_WIDTH, [width]),
        (_HEIGHT, [height]),
        (_BITS, [8 * rows.itemsize] * channels),
        (_COMPRESSION, [_NONE]),
        (_PHOTOMETRIC, [1 if channels < 3 else 2]),  # black is zero, or RGB
        (_STRIPS, [_HEADER_BYTES]),
        (_CHANNELS, [channels]),
        (_ROWS_PER_STRIP, [height]),
        (_STRIP_BYTES, [data.nbytes]),
        *([(_EXTRA, [_STRAIGHT_ALPHA])] if channels in (2, 4) else []),
        (_SAMPLE_FORMAT, [1] * channels),
    ]
    at = _HEADER_BYTES + data.nbytes + data.nbytes % 2
    file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, at))
    file.write(data.data)
    file.write(bytes(data.nbytes % 2))
    # BigTIFF: eight bytes hold up to four short values, or one long one.
    file.write(struct.pack("<Q", len(tags)))
    for tag, values in tags:
        kind = 16 if len(values) == 1 else 3
        packed = struct.pack(f"<{len(values)}{_FORMATS[kind]}", *values)
        file.write(struct.pack("<HHQ8s", tag, kind, len(values), packed))
    file.write(bytes(8))


def read_array(data: bytes) -> Array:
    """The array of a TIFF that a daemon wrote: (H, W), or (H, W, C) for several channels.

    Raises `ValueError` if it is another kind of TIFF.
    """
    import numpy as np

    tags = _tags(data)
    (width,), (height,), bits = tags[_WIDTH], tags[_HEIGHT], tags[_BITS]
    channels = tags[_CHANNELS][0]
    is_ours = tags[_COMPRESSION] == (_DEFLATE,) and tags.get(_PREDICTOR) == (_HORIZONTAL,)
    if not is_ours or set(bits) not in ({8}, {16}) or len(bits) != channels:
        raise ValueError("the daemon wrote a TIFF of another kind than this client reads")
    array = np.empty((height, width, channels), f"u{bits[0] // 8}")
    per_strip = tags[_ROWS_PER_STRIP][0]
    for index, (at, size) in enumerate(zip(tags[_STRIPS], tags[_STRIP_BYTES], strict=True)):
        rows = array[index * per_strip : (index + 1) * per_strip]
        strip = zlib.decompress(memoryview(data)[at : at + size])
        differences = np.frombuffer(strip, f"<u{bits[0] // 8}").reshape(rows.shape)
        np.cumsum(differences, axis=1, dtype=array.dtype, out=rows)
    return array[:, :, 0] if channels == 1 else array


def _tags(data: bytes) -> dict[int, tuple[int, ...]]:
    """The numbers of the first directory."""
    order, version = struct.unpack_from("<2sH", data)
    if order != b"II" or version not in (42, 43):
        raise ValueError("the daemon wrote no TIFF")
    is_big = version == 43
    (at,) = struct.unpack_from("<Q", data, 8) if is_big else struct.unpack_from("<L", data, 4)
    (count,) = struct.unpack_from("<Q" if is_big else "<H", data, at)
    at += 8 if is_big else 2
    entry, room = ("<HHQ", 8) if is_big else ("<HHL", 4)
    tags = {}
    for _ in range(count):
        tag, kind, values = struct.unpack_from(entry, data, at)
        at += struct.calcsize(entry)
        if kind in _FORMATS:
            form = f"<{values}{_FORMATS[kind]}"
            is_here = struct.calcsize(form) <= room
            place = at if is_here else struct.unpack_from("<Q" if is_big else "<L", data, at)[0]
            tags[tag] = struct.unpack_from(form, data, place)
        at += room
    return tags
