"""Colours that a file tells in numbers instead of by a profile, as the profile they amount to.

AVIF and HEIC have code points for them (nclx), PNG the same (cICP), or a gamma and chromaticities
(gAMA, cHRM). libvips knows neither; without them a picture of wide gamut would come out pale.
Source: ITU-T H.273 (code points); PNG specification, third edition, 4.3 and 11.3.2 (precedence).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from upscaled_imaging.chunks import ReadAt, png_chunks
from upscaled_imaging.colour import PROFILE_LEFT_OUT
from upscaled_imaging.heifitem import HEIF_KINDS, nclx
from upscaled_imaging.icc import (
    SRGB_CURVE,
    SRGB_PRIMARIES,
    Curve,
    Primaries,
    gray_profile,
    rgb_profile,
)

_D65, _ILLUMINANT_C = (0.3127, 0.3290), (0.310, 0.316)
_BT2020 = Primaries((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65)
_P3 = Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65)
_BT601_525 = Primaries((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65)
_BT601_625 = Primaries((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65)
_UNSPECIFIED = 2
# Where only one of the two numbers is given, the other is that of sRGB, as in browsers.
_PRIMARIES = {
    1: SRGB_PRIMARIES,
    _UNSPECIFIED: SRGB_PRIMARIES,
    4: Primaries((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _ILLUMINANT_C),
    5: _BT601_625,
    6: _BT601_525,
    7: _BT601_525,
    8: Primaries((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _ILLUMINANT_C),
    9: _BT2020,
    11: _P3._replace(white=(0.314, 0.351)),
    12: _P3,
    22: Primaries((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
_NAMES = {_BT2020: "BT.2020", _P3: "Display P3", SRGB_PRIMARIES: "BT.709"}
_NAMES |= {_BT601_525: "BT.601 (525 lines)", _BT601_625: "BT.601 (625 lines)"}
# The curves of video (BT.709 and its like) are shown as sRGB's nearly everywhere.
_CURVES: dict[int, Curve] = dict.fromkeys((1, _UNSPECIFIED, 6, 7, 11, 12, 13, 14, 15), SRGB_CURVE)
_CURVES |= {4: (2.2,), 5: (2.8,), 8: (1.0,)}
_HDR = {16: "PQ", 18: "HLG"}
# A gamma that differs less from 2.2 is meant for sRGB; libpng has the same bound.
_GAMMA_TOLERANCE = 0.05
_CHROMATICITY_TOLERANCE = 0.002


def told_profile(
    kind: str,
    read_at: ReadAt,
    embedded: bytes | None = None,
    *,
    is_gray: bool,
    warn: Callable[[str], None],
) -> bytes | None:
    """The profile of the colours; None if that is sRGB, or the file tells nothing.

    It is the ``embedded`` one, unless the file has none or tells in a chunk that ranks before it.
    """
    if embedded is not None and kind != "png":
        return embedded
    if kind == "png":
        told, is_first = _of_png(read_at, embedded, warn)
        if embedded is not None and not is_first:
            return embedded
    else:
        told = _of_heif(read_at, warn) if kind in HEIF_KINDS else None
    if told is None:
        return None
    primaries, curve = told
    if is_gray:
        return None if curve == SRGB_CURVE else gray_profile(_name(curve), curve)
    if (primaries, curve) == (SRGB_PRIMARIES, SRGB_CURVE):
        return None
    name = f"{_NAMES.get(primaries, 'RGB')}, {_name(curve)}"
    return rgb_profile(name, primaries, curve)


def _of_heif(read_at: ReadAt, warn: Callable[[str], None]) -> tuple[Primaries, Curve] | None:
    told = nclx(read_at)
    return None if told is None else _by_code_points(told.primaries, told.curve, warn)


def _of_png(
    read_at: ReadAt, embedded: bytes | None, warn: Callable[[str], None]
) -> tuple[tuple[Primaries, Curve] | None, bool]:
    """What the numbers say, and whether they rank before a profile, as those of cICP do."""
    found = {chunk.kind: read_at(chunk.start, 32) for chunk in png_chunks(read_at)}
    if b"iCCP" in found and embedded is None:  # libpng left it out, without a word
        warn(PROFILE_LEFT_OUT)
    if len(found.get(b"cICP", b"")) >= 4:
        told = _by_code_points(found[b"cICP"][0], found[b"cICP"][1], warn)
        return told, told is not None
    if b"sRGB" in found or b"gAMA" not in found:
        return None, False
    (gamma,) = struct.unpack_from(">I", found[b"gAMA"].ljust(4, b"\0"))
    if not 1_000 <= gamma <= 1_000_000:
        return None, False
    exponent = 100_000 / gamma
    curve = SRGB_CURVE if abs(exponent - 2.2) < 2.2 * _GAMMA_TOLERANCE else (exponent,)
    primaries = SRGB_PRIMARIES
    if len(found.get(b"cHRM", b"")) >= 32:
        primaries = _chromaticities(found[b"cHRM"])
    return (primaries, curve), False


def _chromaticities(data: bytes) -> Primaries:
    values = [value / 100_000 for value in struct.unpack(">8I", data)]
    white, red, green, blue = zip(values[::2], values[1::2], strict=True)
    told = Primaries(red, green, blue, white)
    area = abs(
        (red[0] - blue[0]) * (green[1] - blue[1]) - (green[0] - blue[0]) * (red[1] - blue[1])
    )
    same = all(
        abs(mine - its) < _CHROMATICITY_TOLERANCE
        for point, known in zip(told, SRGB_PRIMARIES, strict=True)
        for mine, its in zip(point, known, strict=True)
    )
    # Broken numbers, as of three primaries on a line, are no colours.
    return SRGB_PRIMARIES if same or area < 0.01 or min(values[1::2]) <= 0 else told


def _by_code_points(
    primaries: int, curve: int, warn: Callable[[str], None]
) -> tuple[Primaries, Curve] | None:
    if curve in _HDR:
        warn(f"the input is HDR ({_HDR[curve]}), which nothing here can keep: it will look flat")
        return None
    if primaries == curve == _UNSPECIFIED:
        return None
    if primaries not in _PRIMARIES or curve not in _CURVES:
        warn(
            f"the input's colours are told by numbers that nothing here knows (primaries "
            f"{primaries}, transfer {curve}): they were left out, and the colours may look wrong"
        )
        return None
    return _PRIMARIES[primaries], _CURVES[curve]


def _name(curve: Curve) -> str:
    return "sRGB" if curve == SRGB_CURVE else f"gamma {curve[0]:.3g}"
