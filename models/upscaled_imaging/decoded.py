"""Pixels that a library other than libvips has decoded, as an image of libvips."""

from __future__ import annotations

from collections.abc import Mapping

import pyvips

from upscaled_imaging.rows import Picture

# libvips' names for 8 and for 16 bits per channel.
_NAMES = {1: ("b-w", "grey16"), 3: ("srgb", "rgb16")}


def decoded_image(
    pixels: memoryview, picture: Picture, fields: Mapping[str, bytes | int | None]
) -> pyvips.Image:
    """An image of `pixels`, which are not copied.

    fields: the file's metadata by libvips' names ("icc-profile-data", "n-pages",
    "bits-per-sample" if not all bits are used, ...).
    """
    deep = picture.bits > 8
    image = pyvips.Image.new_from_memory(
        pixels, picture.width, picture.height, picture.bands, "ushort" if deep else "uchar"
    )
    image = image.copy(interpretation=_NAMES[picture.bands - picture.has_alpha][deep])
    # libvips reads the orientation from EXIF, but these decoders have turned the picture already.
    for name, value in (*fields.items(), ("orientation", 1)):
        if value is not None:
            is_blob = isinstance(value, bytes)
            type_ = pyvips.GValue.blob_type if is_blob else pyvips.GValue.gint_type
            image.set_type(type_, name, value)
    return image
