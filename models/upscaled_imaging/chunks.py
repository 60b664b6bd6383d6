"""The pieces of a file: PNG's and WebP's chunks, JPEG's segments, GIF's blocks, AVIF's boxes.

They hold the metadata that libvips does not report. A walk ends at the end of the file, or at the
first piece that is broken.
Source: PNG specification, third edition; ITU-T T.81, annex B; GIF89a (CompuServe, 1990), sections
15 and 18 to 26; RFC 9649 (WebP); ISO/IEC 14496-12, 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

ReadAt = Callable[[int, int], bytes]

# Real files have up to 24 chunks, and one more for each 8 KiB of their pixels.
_MOST = 1000
_MOST_OF_PIXELS = 100_000
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = b"\xff\xd9"
_BLOCK_BYTES = 1024 * 1024
_WHOLE_FILE = 2**62
GIF_IMAGE = b"\x2c"
_GIF_EXTENSION = b"\x21"
_GIF_HEADER_BYTES, _GIF_IMAGE_BYTES = 13, 10
_WEBP_HEADER_BYTES = 12
# A sub-block has up to 255 bytes: enough for 16 MiB of comments, XMP, profiles and pixels.
_MOST_GIF_BLOCKS = 65_536


class Chunk(NamedTuple):
    """One piece: its name, and the offsets at which its contents begin and end."""

    kind: bytes
    start: int
    end: int


def png_chunks(read_at: ReadAt) -> Iterator[Chunk]:
    """The chunks before the pixels, and the first with pixels."""
    for chunk in islice(_png_chunks(read_at), _MOST):
        yield chunk
        if chunk.kind == b"IDAT":
            return


def late_png_chunks(read_at: ReadAt) -> Iterator[Chunk]:
    """The chunks behind the pixels."""
    is_behind = False
    for chunk in islice(_png_chunks(read_at), _MOST_OF_PIXELS):
        if chunk.kind == b"IDAT":
            is_behind = True
        elif is_behind:
            yield chunk


def _png_chunks(read_at: ReadAt) -> Iterator[Chunk]:
    at = 8
    while len(head := read_at(at, 8)) == 8:
        chunk = Chunk(head[4:], at + 8, at + 8 + int.from_bytes(head[:4]))
        yield chunk
        at = chunk.end + 4


def webp_chunks(read_at: ReadAt) -> Iterator[Chunk]:
    """All chunks of a WebP, also those behind the pixels."""
    at = _WEBP_HEADER_BYTES
    for _ in range(_MOST):
        head = read_at(at, 8)
        if len(head) < 8:
            return
        chunk = Chunk(head[:4], at + 8, at + 8 + int.from_bytes(head[4:], "little"))
        yield chunk
        at = chunk.end + chunk.end % 2  # padded to even length


def jpeg_segments(read_at: ReadAt) -> Iterator[Chunk]:
    """The segments before the pixels; the second byte of the marker is the name."""
    at = 2
    for _ in range(_MOST):
        head = read_at(at, 4)
        if len(head) < 4 or head[0] != 0xFF or head[1] == _START_OF_SCAN:
            return
        if head[1] == 0xFF:  # fill bytes, any number of which may precede a marker
            at += 1
            continue
        end = at + 2 + int.from_bytes(head[2:])
        yield Chunk(head[1:2], at + 4, end)
        at = end


def jpeg_end(read_at: ReadAt) -> int | None:
    """The offset of the marker that ends the picture; None if it is missing."""
    at = max((segment.end for segment in jpeg_segments(read_at)), default=0)
    # Among pixels no byte 0xFF is followed by this one.
    while (found := (block := read_at(at, _BLOCK_BYTES)).find(_END_OF_IMAGE)) < 0:
        if len(block) < _BLOCK_BYTES:
            return None
        at += _BLOCK_BYTES - 1
    return at + found


def gif_blocks(read_at: ReadAt) -> Iterator[Chunk]:
    """A GIF's pictures, named `GIF_IMAGE`, and its extensions, named by their labels.

    A picture is the ten bytes of its descriptor. An extension is its sub-blocks and the length
    bytes between them.
    """
    head = read_at(0, _GIF_HEADER_BYTES)
    if len(head) < _GIF_HEADER_BYTES:
        return
    at, left = _GIF_HEADER_BYTES + _gif_palette_bytes(head[10]), _MOST_GIF_BLOCKS
    while left > 0:
        block = read_at(at, _GIF_IMAGE_BYTES)
        if block[:1] == GIF_IMAGE and len(block) == _GIF_IMAGE_BYTES:
            yield Chunk(GIF_IMAGE, at, at + _GIF_IMAGE_BYTES)
            # The palette, and the byte that holds the number of bits per code.
            start = at + _GIF_IMAGE_BYTES + _gif_palette_bytes(block[9]) + 1
        elif block[:1] == _GIF_EXTENSION and len(block) > 1:
            start = at + 2
        else:
            return
        at, count = _gif_blocks_end(read_at, start, left)
        left -= count
        if block[:1] == _GIF_EXTENSION:
            yield Chunk(block[1:2], start, at)


def _gif_blocks_end(read_at: ReadAt, at: int, most: int) -> tuple[int, int]:
    """The offset behind the sub-blocks that begin at `at`, and their number."""
    for count in range(1, most + 1):
        length = read_at(at, 1)
        at += 1 + int.from_bytes(length)
        if length in (b"\0", b""):
            return at, count
    return at, most


def _gif_palette_bytes(flags: int) -> int:
    return 3 * (2 << (flags & 7)) if flags & 0x80 else 0


def boxes(read_at: ReadAt, start: int = 0, end: int = _WHOLE_FILE) -> Iterator[Chunk]:
    """The boxes between two offsets of a file."""
    for _ in range(_MOST):
        head = read_at(start, 16)
        if len(head) < 8 or start >= end:
            return
        length, skipped = int.from_bytes(head[:4]), 8
        if length == 1:
            length, skipped = int.from_bytes(head[8:16]), 16
        elif length == 0:
            length = end - start
        if length < skipped:
            return
        yield Chunk(head[4:8], start + skipped, start + length)
        start += length


def boxes_at(read_at: ReadAt, *path: bytes) -> Iterator[Chunk]:
    """The boxes inside nested boxes, whose names are `path` from the outside in."""
    found = boxes(read_at)
    for name in path:
        # These two begin with a version and flags.
        skipped = 4 if name in (b"meta", b"iref") else 0
        inside = next((box for box in found if box.kind == name), None)
        if inside is None:
            return
        found = boxes(read_at, inside.start + skipped, inside.end)
    yield from found
