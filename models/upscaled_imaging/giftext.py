"""The comments and the XMP of a GIF.

Source: GIF89a (CompuServe, 1990), sections 24 and 26; XMP specification part 3, 1.1.2.
"""

from __future__ import annotations

from typing import NamedTuple

from upscaled_imaging.chunks import ReadAt, gif_blocks

_COMMENT, _APPLICATION = b"\xfe", b"\xff"
_XMP_NAME = b"\x0bXMP DataXMP"
# The bytes behind a packet, which lead readers of sub-blocks to its end.
_XMP_TRAILER_BYTES = 257


class GifTexts(NamedTuple):
    """Comments in the file's order, and the XMP packet."""

    comments: tuple[bytes, ...]
    xmp: bytes | None


def gif_texts(read_at: ReadAt) -> GifTexts:
    """The texts up to the end of the file, or up to its first broken block."""
    comments: list[bytes] = []
    xmp = None
    for block in gif_blocks(read_at):
        if block.kind not in (_COMMENT, _APPLICATION):
            continue
        data = read_at(block.start, block.end - block.start)
        if block.kind == _COMMENT:
            comments.append(_joined(data))
        elif data.startswith(_XMP_NAME):
            xmp = xmp or data[len(_XMP_NAME) : -_XMP_TRAILER_BYTES - 1] or None
    return GifTexts(tuple(comment for comment in comments if comment), xmp)


def _joined(blocks: bytes) -> bytes:
    parts, at = [], 0
    while at < len(blocks) and blocks[at]:
        parts.append(blocks[at + 1 : at + 1 + blocks[at]])
        at += 1 + blocks[at]
    return b"".join(parts)
