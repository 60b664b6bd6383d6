"""Colour tags, which describe colours by numbers instead of a profile, as an ICC profile.

AVIF and HEIC have code points (nclx). PNG has the same code points (cICP), or a gamma and
chromaticities (gAMA, cHRM). libvips reads none of them: a picture of wide gamut would come out
pale. sRGB, BT.709 and Display P3 are kept, because these are what cameras, phones and browsers
write; any other tags are left out with a warning.
Source: ITU-T H.273 (code points); PNG specification, third edition, 4.3 and 11.3.2 (precedence).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Literal

import pyvips

from upscaled_imaging.chunks import ReadAt, png_chunks
from upscaled_imaging.colour import PROFILE_LEFT_OUT
from upscaled_imaging.exif import is_adobe_rgb
from upscaled_imaging.heifitem import HEIF_KINDS, nclx

Space = Literal["srgb", "p3"]

_UNSPECIFIED = 2
# If only one of the two code points is given, browsers take sRGB's value for the other.
_PRIMARIES: dict[int, Space] = {1: "srgb", _UNSPECIFIED: "srgb", 12: "p3"}
# sRGB's curve (13), and the curves of video and of gamma 2.2, which viewers show as sRGB's.
_SRGB_CURVES = {1, _UNSPECIFIED, 4, 6, 7, 11, 12, 13, 14, 15}
_HDR = {16: "PQ", 18: "HLG"}
# Kinds that state their colours only by a profile, or in EXIF.
_WITHOUT_TAGS = ("jpeg", "tiff", "webp")
# White, red, green and blue, x and y each, as cHRM stores them.
_CHROMATICITIES: dict[Space, tuple[int, ...]] = {
    "srgb": (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
    "p3": (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
}
_CHROMATICITY_TOLERANCE = 200
# gAMA of 1/2.2. A gamma within 5 % of it is meant for sRGB; libpng has the same bound.
_SRGB_GAMMA = 45_455
_GAMMA_TOLERANCE = 0.05


def tagged_profile(
    kind: str,
    read_at: ReadAt,
    embedded: bytes | None = None,
    *,
    is_gray: bool,
    warn: Callable[[str], None],
) -> bytes | None:
    """The profile of the colours; None if that is sRGB, or if the file has no colour tags.

    The `embedded` profile ranks before all tags but a PNG's cICP. Gray has no primaries: only
    its curve counts.
    """
    if kind == "png":
        found = _png_space(read_at, embedded, is_gray, warn)
    elif kind in HEIF_KINDS and embedded is None:
        tags = nclx(read_at)
        found = None if tags is None else _space(tags.primaries, tags.curve, is_gray, warn)
    else:
        found = None
    if found is None:
        return embedded
    return None if found == "srgb" else bytes(pyvips.Image.profile_load(found))


def warn_of_exif_space(kind: str, exif: bytes | None, warn: Callable[[str], None]) -> None:
    """Warn of Adobe RGB in EXIF, if nothing else states the colours.

    It becomes no profile: browsers show such a picture as sRGB, and a program that has converted
    it to sRGB may have left EXIF as it was.
    """
    if kind in _WITHOUT_TAGS and exif is not None and is_adobe_rgb(exif):
        warn(
            "the input's EXIF says Adobe RGB, and it has no profile: most programs will show its "
            "colours pale. If it is Adobe RGB, embed that profile"
        )


def _png_space(
    read_at: ReadAt, embedded: bytes | None, is_gray: bool, warn: Callable[[str], None]
) -> Space | None:
    chunks = {chunk.kind: read_at(chunk.start, 32) for chunk in png_chunks(read_at)}
    if b"iCCP" in chunks and embedded is None:  # libpng left it out and did not report that
        warn(PROFILE_LEFT_OUT)
    if len(chunks.get(b"cICP", b"")) >= 4:
        return _space(chunks[b"cICP"][0], chunks[b"cICP"][1], is_gray, warn)
    if embedded is not None or b"sRGB" in chunks or len(chunks.get(b"gAMA", b"")) < 4:
        return None
    (gamma,) = struct.unpack_from(">I", chunks[b"gAMA"])
    found = "srgb" if is_gray else _nearest(chunks.get(b"cHRM", b""))
    if found is None or abs(_SRGB_GAMMA / max(gamma, 1) - 1) >= _GAMMA_TOLERANCE:
        warn(_left_out("gAMA, cHRM"))
        return None
    return found


def _nearest(chromaticities: bytes) -> Space | None:
    """The space of a cHRM chunk; sRGB if there is none, None if it is another one."""
    if len(chromaticities) < 32:
        return "srgb"
    values = struct.unpack(">8I", chromaticities)
    for space, known in _CHROMATICITIES.items():
        pairs = zip(values, known, strict=True)
        if all(abs(value - own) < _CHROMATICITY_TOLERANCE for value, own in pairs):
            return space
    return None


def _space(primaries: int, curve: int, is_gray: bool, warn: Callable[[str], None]) -> Space | None:
    """The space of code points; None, as a rule with a warning, if they are left out."""
    if curve in _HDR:
        warn(f"the input is HDR ({_HDR[curve]}), which nothing here can keep: it will look flat")
        return None
    if primaries == curve == _UNSPECIFIED:
        return None
    known = "srgb" if is_gray else _PRIMARIES.get(primaries)
    if known is None or curve not in _SRGB_CURVES:
        warn(_left_out(f"primaries {primaries}, transfer {curve}"))
        return None
    return known


def _left_out(tags: str) -> str:
    return (
        f"the input's colour tags ({tags}) were left out, because only those of sRGB, BT.709 and "
        "Display P3 can be kept: the colours may look wrong"
    )
