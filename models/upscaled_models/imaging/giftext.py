"""The comments and the XMP of a GIF.

Source: GIF89a (CompuServe, 1990), sections 24 and 26; XMP specification part 3, 1.1.2.
"""

from __future__ import annotations

from typing import NamedTuple

from upscaled_models.imaging.chunks import ReadAt

_HEADER_BYTES, _DESCRIPTOR_BYTES = 13, 10
_EXTENSION, _IMAGE = b"\x21", b"\x2c"
_COMMENT, _APPLICATION = 0xFE, 0xFF
_XMP_NAME = b"\x0bXMP DataXMP"
# What follows a packet, so that readers of sub-blocks find the end of it.
_XMP_TRAILER_BYTES = 257
# Sub-blocks have up to 255 bytes: as many as hold 16 MiB.
_MOST_BLOCKS = 65_536
_HAS_PALETTE, _PALETTE_BITS = 0x80, 0x07


class GifTexts(NamedTuple):
    """Comments in their order, and the XMP packet."""

    comments: tuple[bytes, ...]
    xmp: bytes | None


def gif_texts(read_at: ReadAt) -> GifTexts:
    """Read them, to the end of the file or to where it makes no sense."""
    comments: list[bytes] = []
    xmp = None
    head = read_at(0, _HEADER_BYTES).ljust(_HEADER_BYTES, b"\0")
    at, left = _HEADER_BYTES + _palette_bytes(head[10]), _MOST_BLOCKS
    while left > 0:
        block = read_at(at, _DESCRIPTOR_BYTES)
        if block[:1] == _IMAGE and len(block) == _DESCRIPTOR_BYTES:
            # The palette, and the byte that tells how many bits a code has.
            start = at + _DESCRIPTOR_BYTES + _palette_bytes(block[9]) + 1
        elif block[:1] == _EXTENSION and len(block) > 1:
            start = at + 2
        else:
            break
        at, blocks = _end(read_at, start, left)
        left -= blocks
        if block[0] == _IMAGE[0]:
            continue
        if block[1] == _COMMENT:
            comments.append(_joined(read_at(start, at - start)))
        elif block[1] == _APPLICATION and block[2:].startswith(_XMP_NAME[:8]):
            packet = read_at(start, at - start)[len(_XMP_NAME) : -_XMP_TRAILER_BYTES - 1]
            xmp = xmp or packet or None
    return GifTexts(tuple(comment for comment in comments if comment), xmp)


def _end(read_at: ReadAt, at: int, most: int) -> tuple[int, int]:
    """The place behind the sub-blocks that begin at ``at``, and how many there are."""
    for count in range(1, most + 1):
        length = read_at(at, 1)
        at += 1 + int.from_bytes(length)
        if length in (b"\0", b""):
            return at, count
    return at, most


def _joined(blocks: bytes) -> bytes:
    parts, at = [], 0
    while at < len(blocks) and blocks[at]:
        parts.append(blocks[at + 1 : at + 1 + blocks[at]])
        at += 1 + blocks[at]
    return b"".join(parts)


def _palette_bytes(flags: int) -> int:
    return 3 << ((flags & _PALETTE_BITS) + 1) if flags & _HAS_PALETTE else 0
