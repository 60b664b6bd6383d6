"""The open bytes of an input: read by position, or by libvips."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pyvips

from upscaled_protocol.errors import ErrorCode, JobError


@dataclass(frozen=True)
class Origin:
    """Open bytes, `size` of them.

    path: the input file, or None. stem: for the output's name. held: what libvips reads from; it
    must live as long as the pictures that are read from it.
    """

    source: pyvips.Source
    read_at: Callable[[int, int], bytes]
    size: int
    path: Path | None
    stem: str
    held: list[pyvips.Source] = field(default_factory=list)

    @classmethod
    def of_file(cls, descriptor: int, path: Path | None, stem: str) -> Self:
        """An open file's bytes; the caller closes `descriptor` after the last read."""
        size = os.fstat(descriptor).st_size

        def read_at(at: int, count: int) -> bytes:
            if at >= size:  # a broken file can name an offset that no system call takes
                return b""
            try:
                return os.pread(descriptor, count, at)
            except OSError as error:
                raise JobError(
                    ErrorCode.INPUT_UNREADABLE, f"the input cannot be read: {error.strerror}"
                ) from None

        return cls(pyvips.Source.new_from_descriptor(descriptor), read_at, size, path, stem)

    @classmethod
    def of_bytes(cls, data: bytes, stem: str) -> Self:
        """Bytes in memory."""
        source = pyvips.Source.new_from_memory(data)
        return cls(source, lambda at, count: data[at : at + count], len(data), None, stem)

    def changed(self, pieces: dict[int, bytes]) -> pyvips.Source:
        """The same bytes for libvips, with each of `pieces` put in at its offset."""
        source = _changed_source(self.read_at, self.size, pieces)
        self.held.append(source)
        return source


def _changed_source(
    read_at: Callable[[int, int], bytes], size: int, pieces: dict[int, bytes]
) -> pyvips.SourceCustom:
    size = max([size, *(at + len(piece) for at, piece in pieces.items())])
    position = 0

    def read(count: int) -> bytes:
        nonlocal position
        start, end = position, min(position + count, size)
        if start >= end:
            return b""
        try:
            found = bytearray(read_at(start, end - start).ljust(end - start, b"\0"))
        except JobError:  # must not unwind through C code, which takes no bytes for the end
            return b""
        for at, piece in pieces.items():
            first, last = max(at, start), min(at + len(piece), end)
            if first < last:
                found[first - start : last - start] = piece[first - at : last - at]
        position = end
        return bytes(found)

    def seek(offset: int, whence: int) -> int:
        nonlocal position
        position = (0, position, size)[whence] + offset
        return position

    source = pyvips.SourceCustom()
    source.on_read(read)
    source.on_seek(seek)
    return source
