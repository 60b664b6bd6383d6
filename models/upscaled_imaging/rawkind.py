"""Camera raw files that are TIFFs: their first picture is a preview, often a tiny one.

If the preview were upscaled, the job would seem to succeed.
Source: DNG 1.7 (Adobe) and TIFF/EP (ISO 12234-2); libtiff's tiff.h for compressions.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress

from upscaled_imaging.tags import Entry, Reader
from upscaled_protocol.errors import ErrorCode, JobError

_KIND, _WIDTH, _HEIGHT, _COMPRESSION, _COLOURS = 254, 256, 257, 259, 262
_MAKE, _SUBDIRECTORIES, _DNG_VERSION = 271, 330, 50706
_REDUCED = 1
# Photometric values: a mosaic of colour filters, and DNG's linear raw pixels.
_RAW_COLOURS = frozenset({32803, 34892})
# Sony, Nikon's packed form, Samsung, Nikon, lossy DNG, Kodak, Pentax.
_RAW_COMPRESSIONS = frozenset({32767, 32769, 32770, 32772, 34713, 34892, 65000, 65535})
# Cameras write four or five.
_MOST_DIRECTORIES = 16
_LONGEST_MAKE = 40


def check_raw(reader: Reader) -> None:
    """Refuse a camera raw file, also if its first directory is an ordinary picture.

    Raises `JobError` (unsupported_format), and `ValueError` if the first directory is broken.
    """
    first, _ = _directory(reader, reader.first)
    make = _make(reader, first)
    is_reduced = bool(_number(reader, first, _KIND) & _REDUCED)
    if not (_holds_raw(reader) or (make and is_reduced) or (make and _is_preview(reader, first))):
        return
    if _DNG_VERSION in first:
        make = ", ".join(filter(None, ("DNG", make)))
    raise JobError(
        ErrorCode.UNSUPPORTED_FORMAT,
        f"the input is a camera raw file{make and f' ({make})'}, which is not read here: develop "
        "it in a raw converter, and send its TIFF or JPEG",
    )


def _holds_raw(reader: Reader) -> bool:
    """True if one of the file's first directories has raw pixels of a sensor."""
    due, seen = deque([reader.first]), set[int]()
    while due and len(seen) < _MOST_DIRECTORIES:
        at = due.popleft()
        if at in seen:
            continue
        seen.add(at)
        with suppress(ValueError):
            entries, after = _directory(reader, at)
            if (
                _number(reader, entries, _COLOURS) in _RAW_COLOURS
                or _number(reader, entries, _COMPRESSION) in _RAW_COMPRESSIONS
            ):
                return True
            due += _subdirectories(reader, entries)
            due += [after] if after else []
    return False


def _is_preview(reader: Reader, first: dict[int, Entry]) -> bool:
    """True if a directory inside the first one has a larger picture."""
    largest = 0
    for at in _subdirectories(reader, first):
        with suppress(ValueError):
            largest = max(largest, _pixels(reader, _directory(reader, at)[0]))
    return largest > _pixels(reader, first)


def _directory(reader: Reader, at: int) -> tuple[dict[int, Entry], int]:
    entries, after = reader.entries(at)
    return {entry.number: entry for entry in entries}, after


def _subdirectories(reader: Reader, entries: dict[int, Entry]) -> list[int]:
    if _SUBDIRECTORIES in entries:
        with suppress(ValueError):
            return reader.integers(entries[_SUBDIRECTORIES], _MOST_DIRECTORIES)
    return []


def _pixels(reader: Reader, entries: dict[int, Entry]) -> int:
    return _number(reader, entries, _WIDTH) * _number(reader, entries, _HEIGHT)


def _number(reader: Reader, entries: dict[int, Entry], number: int) -> int:
    """The tag's number; 0 if there is none. Raises `ValueError` if it is cut off."""
    return reader.integer(entries[number]) if number in entries else 0


def _make(reader: Reader, entries: dict[int, Entry]) -> str:
    """The printable part of the camera maker's name; empty if there is none."""
    data = b""
    if _MAKE in entries:
        with suppress(ValueError):
            data = bytes(reader.integers(entries[_MAKE]._replace(type=1), _LONGEST_MAKE))
    letters = data.partition(b"\0")[0].decode("ascii", "replace")
    return "".join(letter for letter in letters if letter.isprintable()).strip()
