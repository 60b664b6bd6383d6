"""Numbers of pixels that XMP and EXIF tell, such as a panorama's: they follow the new picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from upscaled_imaging.exifpixels import places_in_exif, scaled_exif
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.xmp import places_told, scaled_xmp
from upscaled_protocol.messages import Size


def scaled_metadata(
    metadata: Metadata, before: Size, after: Size, *, has_moved: bool, warn: Callable[[str], None]
) -> Metadata:
    """The metadata of a picture that was scaled as a whole.

    If a part of it was cut off or it was turned (``has_moved``), nothing is changed. A warning
    names what then does not hold, and what cannot be scaled.
    """
    exif, xmp = metadata.exif, metadata.xmp
    if has_moved:
        names = places_told(xmp or b"") + places_in_exif(exif or b"")
        if names:
            warn(
                "the picture was cropped or turned: the places that its metadata tells "
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
