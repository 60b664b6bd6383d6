"""Corruption that a decoder passes over: the picture goes on behind it, gray or shifted.

The decoders of JPEG and GIF only report it. libvips makes an error of each report if it is told to,
also of those that concern no pixel. So a picture is read in that way first. After an error it is
opened again and decoded as far as possible, and the job gets a warning.
"""

from __future__ import annotations

from collections.abc import Callable

import pyvips

from upscaled_imaging import formats
from upscaled_imaging.chunks import ReadAt
from upscaled_imaging.jpegrest import is_padded
from upscaled_imaging.libvips import is_out_of_memory, reason
from upscaled_imaging.origin import Origin

PASSED_OVER = frozenset({"jpeg", "gif"})
# libjpeg's other reports are remarks on the header or on the order of the scans.
_ABOUT_PIXELS = {"jpeg": "Corrupt JPEG data", "gif": ""}
# Its report of data behind the last row, in a progressive JPEG.
_BEFORE_THE_END = "extraneous bytes before marker 0xd9"

# The lossless coder writes no zeros for flat colours, the lossy one a byte for 350 pixels at most:
# more than this needs six empty megapixels at the end.
_LOSSLESS_ZEROS, _LOSSY_ZEROS = 1024, 16_384


def load_strictly(kind: str, origin: Origin, warn: Callable[[str], None]) -> pyvips.Image:
    """The picture, whose rows raise `pyvips.Error` at the first report of the decoder.

    If the report comes before the first row, there is only the warning. Raises `JobError`
    (input_unreadable, out_of_memory).
    """
    try:
        return formats.opened(kind, origin.source, "warning")
    except pyvips.Error as error:
        return load_in_spite(kind, origin, error, warn)


def load_in_spite(
    kind: str, origin: Origin, error: pyvips.Error, warn: Callable[[str], None]
) -> pyvips.Image:
    """The same picture from its beginning, decoded as far as possible after `error`.

    Raises `JobError` as `load_strictly` does.
    """
    if is_out_of_memory(error):
        raise formats.unreadable(error) from None
    # libvips would go on reading where the first decoder has stopped.
    image = formats.load(kind, origin.changed({}))
    report = reason(error)
    is_padding = report.endswith(_BEFORE_THE_END) and is_padded(origin.read_at)
    if report.startswith(_ABOUT_PIXELS[kind]) and not is_padding:
        warn(damaged(report))
    return image


def damaged(report: str) -> str:
    """The warning for what a decoder reports, or for another sign of damage."""
    return f"the input may be damaged ({report}): look at the picture before you use it"


def webp_ends_in_zeros(read_at: ReadAt) -> bool:
    """True if a WebP ends in more zeros than an encoder writes. Its decoder takes them for pixels,
    and has no other sign of damage. Outside of the file's declared length, zeros are harmless."""
    head = read_at(0, 16)
    end = 8 + int.from_bytes(head[4:8], "little")
    count = _LOSSLESS_ZEROS if head[12:16] == b"VP8L" else _LOSSY_ZEROS
    tail = read_at(max(end - count, 0), count)
    return len(tail) == count and not any(tail)
