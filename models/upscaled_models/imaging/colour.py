"""Colour models: everything that goes in becomes gray or RGB, with or without alpha."""

from __future__ import annotations

from collections.abc import Callable

import pyvips

from upscaled_protocol.errors import ErrorCode, JobError

_CMYK = "cmyk"
# Where in an ICC profile its colour space is named (ICC.1:2022, 7.2).
_SPACE = slice(16, 20)
_SPACE_OF_BANDS = {1: b"GRAY", 2: b"GRAY", 3: b"RGB ", 4: b"RGB "}


def normalised(
    image: pyvips.Image, warn: Callable[[str], None]
) -> tuple[pyvips.Image, bytes | None]:
    """The image as gray or RGB of 8 or 16 bits, and the profile that then describes it.

    CMYK goes through its own profile, or through libvips' where it has none, to sRGB. Palettes are
    colours already when they come here. Raises `JobError` (unsupported_format).
    """
    if image.format not in ("uchar", "ushort"):
        raise JobError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"the input has {image.format} pixels: convert it to 8 or 16 bits a channel",
        )
    if image.interpretation == _CMYK:
        if not image.get_typeof("icc-profile-data"):
            warn("the CMYK input has no colour profile: a general one was used")
        image = _to_srgb(image)
    allowed = {"b-w": (1, 2), "grey16": (1, 2), "srgb": (3, 4), "rgb16": (3, 4)}
    if image.bands not in allowed.get(image.interpretation, ()):
        raise JobError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"the input has {image.bands} channels of {image.interpretation}: convert it to "
            "gray or RGB, with or without alpha",
        )
    icc = _profile(image)
    if icc is not None and icc[_SPACE] != _SPACE_OF_BANDS[image.bands]:
        warn("the input's colour profile is for another colour model: it was left out")
        icc = None
    return image, icc


def as_rgb(image: pyvips.Image, icc: bytes | None) -> tuple[pyvips.Image, bytes | None]:
    """For formats that store gray as RGB: a gray profile would not fit there."""
    if icc is None or icc[_SPACE] != b"GRAY":
        return image, icc
    image = image.copy()
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)
    image = _to_srgb(image)
    return image, _profile(image)


def _to_srgb(image: pyvips.Image) -> pyvips.Image:
    return image.icc_transform(
        "srgb",
        embedded=True,
        input_profile="cmyk",  # where none is embedded
        intent="relative",
        black_point_compensation=True,
        depth=16 if image.format == "ushort" else 8,
    )


def _profile(image: pyvips.Image) -> bytes | None:
    if not image.get_typeof("icc-profile-data"):
        return None
    return bytes(image.get("icc-profile-data"))
