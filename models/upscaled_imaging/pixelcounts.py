"""Numbers of pixels in XMP and EXIF, such as a panorama's: they are scaled with the picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from upscaled_imaging.exifpixels import places_in_exif, scaled_exif
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.xmp import places_in_xmp, scaled_xmp
from upscaled_protocol.messages import Size


def scaled_metadata(
    metadata: Metadata, before: Size, after: Size, *, has_moved: bool, warn: Callable[[str], None]
) -> Metadata:
    """The metadata of a picture that was scaled as a whole.

    If the picture was cropped or turned (`has_moved`), nothing is changed. A warning names the
    numbers that are wrong then, and those that cannot be scaled.
    """
    exif, xmp = metadata.exif, metadata.xmp
    if has_moved:
        names = places_in_xmp(xmp or b"") + places_in_exif(exif or b"")
        if names:
            warn(
                "the picture was cropped or turned: the positions in its metadata "
                f"({_listed(names)}) are those of the input"
            )
        return metadata
    if before == after:
        return metadata
    exif = exif and scaled_exif(exif, before, after)
    if xmp is not None:
        scales = (after.width / before.width, after.height / before.height)
        xmp, left = scaled_xmp(xmp, scales)
        if left:
            warn(
                f"numbers of pixels in the input's XMP ({_listed(left)}) could not be scaled: "
                "they are those of the input"
            )
    return replace(metadata, exif=exif, xmp=xmp)


def _listed(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names))
