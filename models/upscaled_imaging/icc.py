"""ICC profiles: whether one can be used, and those of colours that are told in numbers.

Source: ICC.1:2022 (profile version 4.4); Bradford adaptation as in its annex E.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_HEADER_BYTES = 128
_ENTRY_BYTES = 12
# Real profiles have some ten to fifty.
_MOST_TAGS = 4096
_SPACE = slice(16, 20)
_SIGNATURE = slice(36, 40)
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


class Primaries(NamedTuple):
    """Chromaticities x, y of red, green, blue and white."""

    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]
    white: tuple[float, float]


# A curve from stored to linear values: Y = X^g, or with more numbers (g, a, b, c, d):
# Y = (aX + b)^g from X = d on, else Y = cX.
Curve = tuple[float, ...]

SRGB_PRIMARIES = Primaries((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290))
SRGB_CURVE: Curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def usable(profile: bytes) -> bytes | None:
    """The profile without whatever follows it; None where it is broken or cut off."""
    if len(profile) < _HEADER_BYTES + 4 or profile[_SIGNATURE] != b"acsp":
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


def rgb_profile(name: str, primaries: Primaries, curve: Curve) -> bytes:
    """A display profile of three primaries and one curve."""
    white = _xyz(primaries.white)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(_BRADFORD @ _D50 / (_BRADFORD @ white)) @ _BRADFORD
    colours = np.stack([_xyz(one) for one in primaries[:3]], axis=1)
    colorants = adapted @ colours * np.linalg.solve(colours, white)
    tags = {b"chad": b"sf32" + bytes(4) + _fixed(*adapted.flat)}
    for letter, colorant in zip(b"rgb", colorants.T, strict=True):
        tags[bytes([letter]) + b"XYZ"] = _xyz_tag(*colorant)
        tags[bytes([letter]) + b"TRC"] = _curve_tag(curve)
    return _profile(name, b"RGB ", tags)


def gray_profile(name: str, curve: Curve) -> bytes:
    """A display profile of one curve."""
    return _profile(name, b"GRAY", {b"kTRC": _curve_tag(curve)})


def _profile(name: str, colour_space: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags |= {b"desc": _text_tag(name), b"cprt": _text_tag("CC0"), b"wtpt": _xyz_tag(*_D50)}
    at = _HEADER_BYTES + 4 + len(tags) * _ENTRY_BYTES
    table, body = struct.pack(">I", len(tags)), b""
    for signature, data in tags.items():
        table += signature + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x", at + len(body), 0x04400000, b"mntr", colour_space, b"XYZ ", b"acsp"
    )
    return (header + _fixed(*_D50)).ljust(_HEADER_BYTES, b"\0") + table + body


def _xyz(chromaticity: tuple[float, float]) -> NDArray[np.float64]:
    x, y = chromaticity
    return np.array([x / y, 1, (1 - x - y) / y])


def _xyz_tag(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*values)


def _curve_tag(curve: Curve) -> bytes:
    kind = {1: 0, 5: 3}[len(curve)]
    return b"para" + struct.pack(">4xHxx", kind) + _fixed(*curve)


def _text_tag(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc" + struct.pack(">4xII4sII", 1, 12, b"enUS", len(data), 28) + data


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
