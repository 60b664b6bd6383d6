"""ICC profiles: which one can be used, and for which colour space.

Source: ICC.1:2022 (profile version 4.4).
"""

from __future__ import annotations

import struct

_HEADER_BYTES = 128
_ENTRY_BYTES = 12
# Real profiles have about 10 to 50.
_MOST_TAGS = 4096
_CLASS, _SPACE = slice(12, 16), slice(16, 20)
# Those of a picture's colours. Device links, abstract profiles and named colours are none.
_CLASSES = (b"scnr", b"mntr", b"prtr", b"spac")
_SIGNATURE = slice(36, 40)


def usable(profile: bytes) -> bytes | None:
    """The profile without the bytes behind its end; None if it is broken, cut off, or of a class
    that is not for a picture's colours."""
    if len(profile) < _HEADER_BYTES + 4 or profile[_SIGNATURE] != b"acsp":
        return None
    if profile[_CLASS] not in _CLASSES:
        return None
    (size,) = struct.unpack_from(">I", profile)
    (tags,) = struct.unpack_from(">I", profile, _HEADER_BYTES)
    table_end = _HEADER_BYTES + 4 + tags * _ENTRY_BYTES
    if tags > _MOST_TAGS or not table_end <= size <= len(profile):
        return None
    for at in range(_HEADER_BYTES + 4, table_end, _ENTRY_BYTES):
        start, length = struct.unpack_from(">II", profile, at + 4)
        if start + length > size:
            return None
    return profile[:size]


def space(profile: bytes) -> bytes:
    """The four letters of its colour space: b"RGB ", b"GRAY", b"CMYK", ..."""
    return profile[_SPACE]
