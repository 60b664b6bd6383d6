"""A TIFF whose channels are stored apart (planar), as one gray picture per channel.

libvips refuses such channels in tiles, and mixes them up in gray pictures. It gets each channel as
a separate file: the same bytes, with another directory behind them.
Source: TIFF 6.0 (Adobe, 1992), PlanarConfiguration.
"""

from __future__ import annotations

import struct

import pyvips

from upscaled_imaging import formats
from upscaled_imaging.origin import Origin
from upscaled_imaging.tags import Reader, TagType
from upscaled_imaging.tiffkind import tile_failures
from upscaled_protocol.errors import ErrorCode, JobError

_BITS, _COLOURS, _SAMPLES, _PLANES, _EXTRA_SAMPLES = 258, 262, 277, 284, 338
_LEAST, _MOST, _FORMAT = 280, 281, 339
# Of either polarity.
_GRAY = (0, 1)
# Offset and length of each strip or tile. Those of the second channel follow those of the first.
_PER_PIECE = (273, 279, 324, 325)
_BLACK_IS_ZERO, _TOGETHER = 1, 1
# Tags with one value per channel. One value is kept, because all channels have the same.
_PER_CHANNEL = (_BITS, _LEAST, _MOST, _FORMAT)


def load_planes(origin: Origin, photometric: int, samples: int, wanted: list[int]) -> pyvips.Image:
    """The `wanted` ones of a file's `samples` channels, as bands of one image.

    The first is gray of the polarity `photometric`. Raises `JobError` (input_unreadable).
    """
    try:
        planes = [
            origin.changed(_as_gray(origin, photometric if plane == 0 else 1, samples, plane))
            for plane in wanted
        ]
    except (ValueError, struct.error):
        raise JobError(
            ErrorCode.INPUT_UNREADABLE,
            "the input is broken or truncated: its channels cannot be found",
        ) from None
    fail_on = tile_failures(origin.read_at)
    images = [formats.load("tiff", plane, fail_on) for plane in planes]
    return images[0].bandjoin(images[1:]) if len(images) > 1 else images[0]


def _as_gray(origin: Origin, photometric: int, samples: int, plane: int) -> dict[int, bytes]:
    """The changes that make a file of one plane: a header, and a directory behind the end."""
    reader = Reader(origin.read_at)
    entries, following = reader.entries(reader.first)
    changed = {
        _COLOURS: photometric if photometric in _GRAY else _BLACK_IS_ZERO,
        _SAMPLES: 1,
        _PLANES: _TOGETHER,
    }
    table = []
    for entry in entries:
        if entry.number in changed:
            one = entry._replace(type=TagType.SHORT, values=1)
            table.append(reader.packed(one, changed[entry.number]))
        elif entry.number in _PER_CHANNEL:
            table.append(reader.packed(entry._replace(values=1), reader.integer(entry)))
        elif entry.number in _PER_PIECE:
            count = entry.values // samples
            step = count * reader.size(entry) // max(entry.values, 1)
            place = entry.place + plane * step
            table.append(reader.packed(entry._replace(values=count, place=place)))
        elif entry.number != _EXTRA_SAMPLES:
            table.append(reader.packed(entry))
    counter, pointer, first_at = ("Q", "Q", 8) if reader.big else ("H", "I", 4)
    at = origin.size + origin.size % 2
    head = struct.pack(reader.order + counter, len(table))
    tail = struct.pack(reader.order + pointer, following)
    return {first_at: struct.pack(reader.order + pointer, at), at: head + b"".join(table) + tail}
