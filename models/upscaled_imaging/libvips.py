"""libvips, set up for a daemon that reads untrusted files, and fed row by row.

libvips cannot load bare rows from a stream. They are passed as an uncompressed TIFF: its directory
comes first, the rows follow in order, and libvips reads it from front to back.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyvips

from upscaled_imaging.rows import Picture
from upscaled_imaging.tags import BIG_HEADER_BYTES, header, long, long8, pack, short
from upscaled_protocol.errors import ErrorCode, JobError

# The loaders that are allowed. libvips has many more, some of them unsafe for untrusted files, and
# new releases add others.
_LOADERS = ("Png", "Jpeg", "Webp", "Tiff", "Heif", "Nsgif")
# Only AVIF's encoder uses threads, and the network needs the cores.
THREADS = 4
# The messages of libvips, libjpeg and libheif if memory ran out. libheif's message about a limit of
# its own has a colon in place of the bracket.
_OUT_OF_MEMORY = ("out of memory", "Insufficient memory", "Memory allocation error (")
# Rows per strip of that TIFF: each strip costs one call back into Python.
_STRIP_ROWS = 16


def _set_up() -> None:
    # Errors are raised as exceptions; these messages are only remarks on single files.
    logging.getLogger("pyvips").setLevel(logging.ERROR)
    # Every job has a new picture, so a cache of operations would only waste memory.
    pyvips.cache_set_max(0)
    pyvips.concurrency_set(min(THREADS, os.cpu_count() or 1))
    pyvips.operation_block_set("VipsForeignLoad", True)
    for name in _LOADERS:
        pyvips.operation_block_set(f"VipsForeignLoad{name}", False)


_set_up()


def reason(error: pyvips.Error) -> str:
    """libvips' message, as the end of a sentence; empty if it has none."""
    lines = [line.strip() for line in str(error.detail).splitlines()]
    # The last line with a name in front ("tiff2vips: ...") is the cause, "bad seek" its effect.
    causes = [line for line in lines if ": " in line and "bad seek" not in line]
    return causes[-1].split(": ", 1)[1].rstrip(".") if causes else ""


def forget_reports() -> None:
    """Empty libvips' buffer of messages. What a decoder reports without an error stays in it, and
    would become the reason of the next error."""
    pyvips.Error("")


def is_out_of_memory(error: pyvips.Error) -> bool:
    """True if memory ran out: the picture itself may be sound."""
    return any(text in str(error.detail) for text in _OUT_OF_MEMORY)


@contextmanager
def image_of(rows: Iterator[np.ndarray], picture: Picture) -> Iterator[pyvips.Image]:
    """`rows` as an image that one saver can read once, from the top down.

    Leaving the context raises the exception of `rows`, if there was one, and `JobError`
    (output_unwritable, out_of_memory) if libvips fails.
    """
    feed = _Feed(rows, picture)
    source = pyvips.SourceCustom()
    source.on_read(feed.read)
    source.on_seek(feed.seek)
    try:
        yield pyvips.Image.tiffload_source(source, access="sequential", fail_on="error")
        feed.raise_failure()
    except pyvips.Error as error:
        feed.raise_failure()
        if is_out_of_memory(error):
            raise JobError(
                ErrorCode.OUT_OF_MEMORY,
                "memory ran out as the output was encoded: free some, or choose png or tiff",
            ) from None
        raise JobError(
            ErrorCode.OUTPUT_UNWRITABLE, f"the output cannot be encoded: {reason(error)}"
        ) from None


class _Feed:
    """The TIFF that libvips reads: a header, and the rows as they arrive."""

    def __init__(self, rows: Iterator[np.ndarray], picture: Picture) -> None:
        self._failure: BaseException | None = None
        self._rows = rows
        self._header = _header(picture)
        self._size = len(self._header) + picture.height * picture.row_bytes
        self._position = 0
        self._ahead = memoryview(b"")

    def raise_failure(self) -> None:
        """Raise the exception of the rows. It is not kept: its traceback refers to this object."""
        failure, self._failure = self._failure, None
        try:
            if failure is not None:
                raise failure
        finally:
            del failure

    def seek(self, offset: int, whence: int) -> int:
        self._position = (0, self._position, self._size)[whence] + offset
        return self._position

    def read(self, count: int) -> bytes:
        start = self._position
        if start < len(self._header):
            data = self._header[start : start + count]
        elif start >= self._size:
            data = b""
        else:
            try:
                while not self._ahead:
                    self._ahead = np.ascontiguousarray(next(self._rows)).data.cast("B")
            except BaseException as error:  # noqa: BLE001 - must not unwind through C code
                self._failure = self._failure or error
                return b""
            data = bytes(self._ahead[:count])
            self._ahead = self._ahead[len(data) :]
        self._position += len(data)
        return data


def _header(picture: Picture) -> bytes:
    strips = [
        min(_STRIP_ROWS, picture.height - top) for top in range(0, picture.height, _STRIP_ROWS)
    ]

    def directory(pixels_at: int) -> bytes:
        step = _STRIP_ROWS * picture.row_bytes
        tags = [
            long(256, picture.width),
            long(257, picture.height),
            short(258, *[picture.bits] * picture.bands),
            short(259, 1),  # no compression
            short(262, 1 if picture.bands < 3 else 2),  # black is zero, or RGB
            long8(273, [pixels_at + index * step for index in range(len(strips))]),
            short(277, picture.bands),
            long(278, _STRIP_ROWS),
            long8(279, [rows * picture.row_bytes for rows in strips]),
        ]
        if picture.has_alpha:
            tags.append(short(338, 2))  # straight alpha
        return pack(tags, BIG_HEADER_BYTES, big=True)

    # The directory's length does not depend on the numbers in it.
    pixels_at = BIG_HEADER_BYTES + len(directory(0))
    return header(BIG_HEADER_BYTES, big=True) + directory(pixels_at)
