"""TIFF directories, the tagged structure that TIFF files and EXIF blocks share.

Source: TIFF 6.0 (Adobe, 1992), section 2, and the BigTIFF design documented by libtiff.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from enum import IntEnum
from typing import NamedTuple

import numpy as np

BIG_HEADER_BYTES = 16
# Much larger than any real value (maker notes are below 100 kB), because a count may be forged.
_LONGEST_VALUE_BYTES = 4 * 1024 * 1024
_LONGEST_DIRECTORY = 4096
# The limit for all values of a directory and those inside it. Values may overlap, so a small file
# could yield any number of bytes.
_MOST_VALUE_BYTES = 16 * 1024 * 1024
_ALL = range(65536)
# How a comment of UTF-16 begins, whose byte order is that of the block (Exif 2.32, 4.6.5).
_UTF_16 = b"UNICODE\0"


class TagType(IntEnum):
    """How a tag's values are stored."""

    BYTE = 1
    ASCII = 2
    SHORT = 3
    LONG = 4
    RATIONAL = 5
    UNDEFINED = 7
    LONG8 = 16


# Bytes per value, and bytes per number in it: a rational is two numbers of four bytes.
_SIZES = {1: (1, 1), 2: (1, 1), 3: (2, 2), 4: (4, 4), 5: (8, 4), 6: (1, 1), 7: (1, 1), 8: (2, 2),
          9: (4, 4), 10: (8, 4), 11: (4, 4), 12: (8, 8), 13: (4, 4), 16: (8, 8), 17: (8, 8),
          18: (8, 8)}  # fmt: skip


class Tag(NamedTuple):
    """One entry: its values as little-endian bytes, or the directory that it points to."""

    number: int
    type: int
    data: bytes | list[Tag]


class Entry(NamedTuple):
    """One raw entry at offset `at`, whose `values` of `type` begin at offset `place`."""

    number: int
    type: int
    values: int
    place: int
    at: int


def short(number: int, *values: int) -> Tag:
    """A tag of 16-bit numbers."""
    return Tag(number, TagType.SHORT, struct.pack(f"<{len(values)}H", *values))


def long(number: int, *values: int) -> Tag:
    """A tag of 32-bit numbers."""
    return Tag(number, TagType.LONG, struct.pack(f"<{len(values)}I", *values))


def long8(number: int, values: Sequence[int]) -> Tag:
    """A tag of 64-bit numbers, for BigTIFF."""
    return Tag(number, TagType.LONG8, struct.pack(f"<{len(values)}Q", *values))


def rational(number: int, value: float) -> Tag:
    """A tag of one fraction, to the ten-thousandth."""
    return Tag(number, TagType.RATIONAL, struct.pack("<II", round(value * 10_000), 10_000))


def header(directory_at: int, *, big: bool) -> bytes:
    """The header of a little-endian file: 8 bytes, or 16 for BigTIFF."""
    if big:
        return b"II" + struct.pack("<HHHQ", 43, 8, 0, directory_at)
    return b"II" + struct.pack("<HI", 42, directory_at)


def pack(tags: Sequence[Tag], at: int, *, big: bool = False) -> bytes:
    """A little-endian directory for offset `at` of its file, with long values behind it."""
    count, entry, pointer = ("<Q", "<HHQ", "<Q") if big else ("<H", "<HHI", "<I")
    inline = struct.calcsize(pointer)
    table = struct.calcsize(count) + len(tags) * (struct.calcsize(entry) + inline) + inline
    entries = bytearray()
    beyond = bytearray()
    for tag in sorted(tags, key=lambda tag: tag.number):
        kind, place = tag.type, struct.pack(pointer, at + table + len(beyond))
        if isinstance(tag.data, list):
            kind, number = TagType.LONG8 if big else TagType.LONG, 1
            beyond += pack(tag.data, at + table + len(beyond), big=big)
        else:
            number = len(tag.data) // _SIZES[kind][0]
            if len(tag.data) <= inline:
                place = tag.data.ljust(inline, b"\0")
            else:
                beyond += tag.data
        beyond += bytes(len(beyond) % 2)  # values begin at even bytes
        entries += struct.pack(entry, tag.number, kind, number) + place
    return struct.pack(count, len(tags)) + bytes(entries) + bytes(inline) + bytes(beyond)


class _Walk:
    """The state of reading a directory and those inside it."""

    def __init__(self, at: int) -> None:
        self.places = {at}
        self.bytes_left = _MOST_VALUE_BYTES


class Reader:
    """Reads directories of either byte order, of TIFF, BigTIFF and EXIF.

    `read_at` takes an offset and a count of bytes, and returns fewer at the end. `check` is
    called for each value of a directory; an exception of it ends the reading.
    Raises `ValueError` if there is no such header.
    """

    def __init__(
        self, read_at: Callable[[int, int], bytes], check: Callable[[], None] = lambda: None
    ) -> None:
        self._read_at = read_at
        self._check = check
        start = read_at(0, BIG_HEADER_BYTES)
        self.order = {b"II": "<", b"MM": ">"}.get(start[:2], "")
        if not self.order or len(start) < 8:
            raise ValueError("no TIFF header")
        self.big = self._unpack("H", start[2:4]) == 43
        self._pointer = "Q" if self.big else "I"
        self.first = self._unpack(self._pointer, start[8:16] if self.big else start[4:8])

    def entries(self, at: int) -> tuple[list[Entry], int]:
        """The entries of the directory at offset `at`, and the offset of the next one, or 0.

        If several entries have the same number, the first counts, as in libtiff. Raises
        `ValueError` if the directory is cut off.
        """
        inline = struct.calcsize(self._pointer)
        counter, entry = ("Q", f"{self.order}HHQ") if self.big else ("H", f"{self.order}HHI")
        head = struct.calcsize(counter)
        step = struct.calcsize(entry) + inline
        length = min(self._unpack(counter, self._read_at(at, head)), _LONGEST_DIRECTORY) * step
        table = self._read_at(at + head, length + inline)
        if len(table) < length:
            raise ValueError("the directory is cut off")
        found: dict[int, Entry] = {}
        for start in range(0, length, step):
            number, kind, count = struct.unpack_from(entry, table, start)
            if number in found:
                continue
            place = at + head + start + step - inline
            if count * _SIZES.get(kind, (1, 1))[0] > inline:
                place = self._unpack(self._pointer, table[start + step - inline : start + step])
            found[number] = Entry(number, kind, count, place, at + head + start)
        rest = table[length:]
        return list(found.values()), self._unpack(self._pointer, rest) if len(rest) == inline else 0

    def directory(self, at: int, *, wanted: Container[int], inside: frozenset[int]) -> list[Tag]:
        """The tags at offset `at` whose numbers are `wanted`; broken ones are left out.

        Tags `inside` point to directories. Each of these is read once, with all of its tags.
        Values beyond a total of 16 MiB are left out.
        """
        return self._directory(at, wanted, inside, _Walk(at))

    def _directory(
        self, at: int, wanted: Container[int], inside: frozenset[int], walk: _Walk
    ) -> list[Tag]:
        tags = []
        for entry in self.entries(at)[0]:
            self._check()
            number, kind, values, place, _ = entry
            size = values * _SIZES.get(kind, (0, 0))[0]
            if number not in wanted or not 0 < size <= min(_LONGEST_VALUE_BYTES, walk.bytes_left):
                continue
            data = self._read_at(place, size)
            if len(data) < size:
                continue
            walk.bytes_left -= size
            if number not in inside:
                tags.append(Tag(number, kind, self._little_endian(data, kind)))
                continue
            with suppress(ValueError):
                to = self.integer(entry)
                if to not in walk.places:
                    walk.places.add(to)
                    # Each pointer is followed once on the way down, which bounds the depth.
                    nested = self._directory(to, _ALL, inside - {number}, walk)
                    tags.append(Tag(number, TagType.LONG, nested))
        return tags

    def _little_endian(self, data: bytes, kind: int) -> bytes:
        size, start = _SIZES[kind][1], 0
        if size == 1 and data.startswith(_UTF_16):
            size, start = 2, len(_UTF_16)
        if self.order == "<" or size == 1:
            return data
        end = len(data) - (len(data) - start) % size
        swapped = np.frombuffer(data[start:end], f">u{size}").astype(f"<u{size}").tobytes()
        return data[:start] + swapped + data[end:]

    def size(self, entry: Entry) -> int:
        """The bytes of an entry's values; 0 if their type is unknown."""
        return entry.values * _SIZES.get(entry.type, (0, 0))[0]

    def is_whole(self, entry: Entry) -> bool:
        """True if the file has every byte of an entry's values."""
        size = self.size(entry)
        return size > 0 and len(self._read_at(entry.place + size - 1, 1)) == 1

    def integer(self, entry: Entry) -> int:
        """The first value of an entry of 8, 16, 32 or 64-bit numbers."""
        code = self._code(entry)
        return self._unpack(code, self._read_at(entry.place, struct.calcsize(code)))

    def integers(self, entry: Entry, most: int) -> list[int]:
        """The same for its first `most` values."""
        size = _SIZES.get(entry.type, (0, 0))[0]
        count = min(entry.values, most)
        return [self.integer(entry._replace(place=entry.place + n * size)) for n in range(count)]

    def numbers(self, entry: Entry) -> np.ndarray:
        """All values of such an entry, as far as the file has them; at most 4 MiB of them."""
        data = self._read_at(entry.place, min(self.size(entry), _LONGEST_VALUE_BYTES))
        dtype = np.dtype(self.order + self._code(entry))
        return np.frombuffer(data, dtype, len(data) // dtype.itemsize)

    def packed(self, entry: Entry, value: int | None = None) -> bytes:
        """The entry in the file's byte order. `value` replaces its values by one number."""
        inline = struct.calcsize(self._pointer)
        size = entry.values * _SIZES.get(entry.type, (1, 1))[0]
        if value is not None:
            data = struct.pack(self.order + self._code(entry), value)
        elif size > inline:
            data = struct.pack(self.order + self._pointer, entry.place)
        else:
            data = self._read_at(entry.place, size)
        head = struct.pack(f"{self.order}HH{self._pointer}", entry.number, entry.type, entry.values)
        return head + data.ljust(inline, b"\0")

    def packed_integers(self, entry: Entry, value: int) -> bytes:
        """The bytes of the entry's values if all of them are `value`."""
        return struct.pack(self.order + self._code(entry), value) * entry.values

    def fraction(self, entry: Entry) -> float:
        """The first value of an entry of fractions. Raises `ZeroDivisionError` as well."""
        data = self._read_at(entry.place, 8)
        return self._unpack("I", data) / self._unpack("I", data[4:])

    def _code(self, entry: Entry) -> str:
        code = {1: "B", 2: "H", 4: "I", 8: "Q"}.get(_SIZES.get(entry.type, (0, 0))[1])
        if code is None:
            raise ValueError(f"type {entry.type} has no numbers")
        return code

    def _unpack(self, code: str, data: bytes) -> int:
        if len(data) < struct.calcsize(code):
            raise ValueError("the directory is cut off")
        return int(struct.unpack_from(self.order + code, data)[0])
