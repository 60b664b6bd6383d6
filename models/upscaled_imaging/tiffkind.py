"""Which TIFF files are read. The format allows nearly anything, and libvips decodes some wrongly.

Source: TIFF 6.0 (Adobe, 1992); DNG 1.7 and TIFF/EP for camera raw files; libtiff's tiff.h.
"""

from __future__ import annotations

from collections.abc import Callable

from upscaled_imaging.formats import FailOn
from upscaled_imaging.rawkind import check_raw
from upscaled_imaging.tags import Reader
from upscaled_protocol.errors import ErrorCode, JobError

_KIND, _BITS, _COMPRESSION, _COLOURS = 254, 258, 259, 262
_PLANES, _PALETTE, _TILE_WIDTH, _TILE_BYTES, _PROFILE = 284, 320, 322, 325, 34675
_REDUCED = 1
_SEPARATE = 2
_JPEG = 7
_PALETTE_COLOURS, _YCBCR = 3, 6
# Compressions that libtiff decodes: none, CCITT, LZW, JPEG, deflate, PackBits, WebP.
_READ_COMPRESSIONS = (1, 2, 3, 4, 5, _JPEG, 8, 32771, 32773, 32946, 50001)
_COMPRESSIONS = {6: "old-style JPEG", 34712: "JPEG 2000", 34925: "LZMA", 50000: "Zstandard"}
_READ_BITS = (1, 2, 4, 8, 16)
# Gray of either polarity, RGB, palette, CMYK. YCbCr is converted if it is compressed as JPEG.
_READ_COLOURS = (0, 1, 2, _PALETTE_COLOURS, 5)
# Gray, RGB and CMYK may store each channel in separate tiles.
_APART_COLOURS = (0, 1, 2, 5)
_CONVERT = "convert it to gray, RGB or CMYK of 8 or 16 bits per channel"
_COLOUR_NAMES = {4: "mask", _YCBCR: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab", 32803: "camera raw"}


def check_tiff(read_at: Callable[[int, int], bytes]) -> None:
    """Refuse a file whose first picture would be decoded wrongly.

    Raises `JobError`: unsupported_format, or input_unreadable if its palette or profile is cut off.
    A broken directory passes, because libtiff's error says more about it.
    """
    try:
        reader = Reader(read_at)
        check_raw(reader)
        entries = {entry.number: entry for entry in reader.entries(reader.first)[0]}
        values = {
            number: reader.integer(entries[number])
            for number in (_KIND, _BITS, _COMPRESSION, _COLOURS, _PLANES)
            if number in entries
        }
    except ValueError:
        return
    compression, colours = values.get(_COMPRESSION, 1), values.get(_COLOURS, 1)
    bits = values.get(_BITS, 1)
    if values.get(_KIND, 0) & _REDUCED:
        # If a camera's thumbnail were upscaled, the job would seem to succeed.
        what = "begins with a small preview, as camera raw files do"
        raise _unsupported(what, "save its full picture as PNG or TIFF")
    if compression not in _READ_COMPRESSIONS:
        what = f"is compressed with {_COMPRESSIONS.get(compression, f'method {compression}')}"
        raise _unsupported(what, "save it with LZW or deflate, or without compression")
    if colours not in _READ_COLOURS and (colours, compression) != (_YCBCR, _JPEG):
        raise _unsupported(f"has {_COLOUR_NAMES.get(colours, f'photometric {colours}')} pixels")
    if bits not in _READ_BITS:
        raise _unsupported(f"has {bits} bits per channel")
    is_apart = values.get(_PLANES) == _SEPARATE and _TILE_WIDTH in entries
    if is_apart and colours not in _APART_COLOURS:
        raise _unsupported("has each channel in separate tiles")
    if colours == _PALETTE_COLOURS:
        palette = entries.get(_PALETTE)
        if palette is None or palette.values < 3 << bits or not reader.is_whole(palette):
            raise _cut_off("palette")
    if _PROFILE in entries and not reader.is_whole(entries[_PROFILE]):
        raise _cut_off("colour profile")


def tile_failures(read_at: Callable[[int, int], bytes]) -> FailOn:
    """What libvips must fail on, so that each tile that cannot be read is an error.

    libvips makes such a tile black, unless it fails on warnings. Warnings of a tiled file's header
    do not count. In strips, errors suffice. Tiles without data are meant to be black (GDAL).
    """
    try:
        reader = Reader(read_at)
        entries = {entry.number: entry for entry in reader.entries(reader.first)[0]}
        if _TILE_WIDTH not in entries or 0 in reader.numbers(entries[_TILE_BYTES]):
            return "error"
    except (ValueError, KeyError):
        return "error"
    return "warning"


def _unsupported(what: str, remedy: str = _CONVERT) -> JobError:
    return JobError(
        ErrorCode.UNSUPPORTED_FORMAT,
        f"the input is a TIFF that {what}, which is not read here: {remedy}",
    )


def _cut_off(what: str) -> JobError:
    return JobError(
        ErrorCode.INPUT_UNREADABLE, f"the input is broken or truncated: its {what} is cut off"
    )
