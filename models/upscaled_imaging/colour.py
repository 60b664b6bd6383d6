"""Colour models: every input becomes gray or RGB, with or without alpha."""

from __future__ import annotations

from collections.abc import Callable

import pyvips

from upscaled_imaging.icc import space, usable
from upscaled_protocol.errors import ErrorCode, JobError

_CMYK = "cmyk"
_SPACE_OF_BANDS = {1: b"GRAY", 2: b"GRAY", 3: b"RGB ", 4: b"RGB "}
_ICC = "icc-profile-data"
PROFILE_LEFT_OUT = (
    "the input's colour profile is broken or for another colour model: it was left out"
)


def normalised(
    image: pyvips.Image, warn: Callable[[str], None]
) -> tuple[pyvips.Image, bytes | None]:
    """The image as gray or RGB of 8 or 16 bits, and the profile that then describes it.

    CMYK is converted to sRGB by its own profile, or by libvips' if it has none. The loaders have
    expanded palettes already. Raises `JobError` (unsupported_format).
    """
    if image.format not in ("uchar", "ushort"):
        raise JobError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"the input has {image.format} pixels: convert it to 8 or 16 bits per channel",
        )
    if image.interpretation == _CMYK:
        if _profile(image, b"CMYK", warn) is None:
            warn("the CMYK input has no colour profile: a general one was used")
            image = image.copy()
            image.remove(_ICC)
        image = _inks_to_srgb(image)
    bands, interpretation = image.bands, image.interpretation
    allowed = {"b-w": (1, 2), "grey16": (1, 2), "srgb": (3, 4), "rgb16": (3, 4)}
    if bands not in allowed.get(interpretation, ()):
        raise JobError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"the input has {bands} channels of {interpretation}: convert it to "
            "gray or RGB, with or without alpha",
        )
    return image, _profile(image, _SPACE_OF_BANDS[bands], warn)


def straight(image: pyvips.Image) -> pyvips.Image:
    """The image with its premultiplied colours divided by their alpha."""
    top = 65535 if image.format == "ushort" else 255
    divided = image.unpremultiply(max_alpha=top).rint().cast(image.format)
    return divided.copy(interpretation=image.interpretation)


def as_rgb(image: pyvips.Image, icc: bytes | None) -> tuple[pyvips.Image, bytes | None]:
    """The image for a format that stores gray as RGB, to which a gray profile would not apply."""
    if icc is None or space(icc) != b"GRAY":
        return image, icc
    image = image.copy()
    image.set_type(pyvips.GValue.blob_type, _ICC, icc)
    image = _to_srgb(image)
    return image, bytes(image.get(_ICC))


def _inks_to_srgb(image: pyvips.Image) -> pyvips.Image:
    # Alpha is added afterwards: libvips takes the 16-bit alpha of CMYK for an 8-bit one.
    colours = _to_srgb(image.extract_band(0, n=4))
    if image.bands == 4:
        return colours
    return colours.bandjoin(image.extract_band(4, n=image.bands - 4))


def _to_srgb(image: pyvips.Image) -> pyvips.Image:
    return image.icc_transform(
        "srgb",
        embedded=True,
        input_profile="cmyk",  # used if none is embedded
        intent="relative",
        black_point_compensation=True,
        depth=16 if image.format == "ushort" else 8,
    )


def _profile(image: pyvips.Image, wanted: bytes, warn: Callable[[str], None]) -> bytes | None:
    """The embedded profile, if it is sound and for pixels of the `wanted` colour space."""
    if not image.get_typeof(_ICC):
        return None
    profile = usable(bytes(image.get(_ICC)))
    if profile is None or space(profile) != wanted:
        warn(PROFILE_LEFT_OUT)
        return None
    return profile
