"""The rows of a PNG as its file stores them: checked, but not decoded.

If a file holds exactly the pixels of the output, its rows are copied: to decode and encode them
again would cost ten times as much processor time.
Source: PNG specification, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice

import numpy as np
from isal import isal_zlib
from isal.igzip_lib import DECOMP_ZLIB, IgzipDecompressor

from upscaled_imaging.png import SIGNATURE, header
from upscaled_imaging.rows import Picture

# The filters of a row are numbered from 0 (none) to this one.
_FILTER_PAETH = 4
# Real files have one chunk for each 8 KiB of their pixels.
_MOST_CHUNKS = 100_000
# Rows that are inflated at once, to check that they are complete.
_ROWS = 64


def stored_rows(data: bytes, picture: Picture) -> bytes | None:
    """The filtered and deflated rows of a PNG file.

    None if the file is not whole and sound, or differs from ``picture`` in size, bands, bits,
    transparency or order of rows.
    """
    try:
        chunks = list(islice(_chunks(data), _MOST_CHUNKS))
        kinds = [kind for kind, _ in chunks]
        if (kinds[0], kinds[-1]) != (b"IHDR", b"IEND"):
            return None
        if chunks[0][1] != header(picture) or b"tRNS" in kinds:
            return None
        stored = b"".join(body for kind, body in chunks if kind == b"IDAT")
        return stored if _is_whole(stored, picture) else None
    except (struct.error, ValueError, isal_zlib.error):  # type: ignore[misc] # its stub is wrong
        return None


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and contents of each chunk. Raises if the file is broken or cut off."""
    if not data.startswith(SIGNATURE):
        raise ValueError("no PNG")
    view = memoryview(data)
    at, kind = len(SIGNATURE), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", view, at)
        body = view[at + 8 : at + 8 + length]
        at += 8 + length
        (checksum,) = struct.unpack_from(">I", view, at)
        if isal_zlib.crc32(body, isal_zlib.crc32(kind)) != checksum:
            raise ValueError("a chunk is broken")
        at += 4
        yield kind, body


def _is_whole(stored: bytes, picture: Picture) -> bool:
    """Whether the number of rows is right. Raises if they are broken."""
    row_bytes = 1 + picture.row_bytes
    inflate = IgzipDecompressor(flag=DECOMP_ZLIB)
    for top in range(0, picture.height, _ROWS):
        due = row_bytes * min(_ROWS, picture.height - top)
        rows = inflate.decompress(b"" if top else stored, due)
        if len(rows) < due or np.frombuffer(rows, np.uint8)[::row_bytes].max() > _FILTER_PAETH:
            return False
    # The stream's checksum comes after its last byte.
    rest = b"" if inflate.eof else inflate.decompress(b"", 1)
    return inflate.eof and not rest and not inflate.unused_data
