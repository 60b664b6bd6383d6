"""An AVIF, through libvips and libheif. The encoder needs the whole picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyvips
from pyvips.enums import ForeignKeep

from upscaled_imaging.colour import as_rgb
from upscaled_imaging.exif import resolution, with_resolution
from upscaled_imaging.libvips import image_of
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.rows import Picture

_DEFAULT_QUALITY = 85
_LOSSLESS = 100
# libvips' default, effort 4, takes seven times the processor time for a file of the same size.
_EFFORT = 3
# The most bits per channel that AV1 stores.
_DEEP_BITS = 12
# EXIF's value for an unknown resolution (Exif 2.32, 4.6.4).
_UNTOLD_DPI = 72
_MILLIMETRES = 25.4
_KEPT = ForeignKeep.ICC | ForeignKeep.XMP
# libexif, with which libvips rewrites the block, reads no more and would leave out all of it.
MAX_EXIF_BYTES = 65_532


def write_avif(
    rows: Iterator[np.ndarray],
    file: BinaryIO,
    picture: Picture,
    metadata: Metadata,
    quality: int | None,
) -> None:
    """Write ``rows`` with full chroma resolution, 16 bits per channel as 12.

    Quality 100 is lossless for 8 bits per channel. Gray is stored as RGB.
    """
    chosen = quality or _DEFAULT_QUALITY
    exif = metadata.exif_with_dpi()
    if exif is not None and resolution(exif) is None:
        # libvips would take numbers without a unit for dots per millimetre.
        exif = with_resolution(exif, _UNTOLD_DPI)
    with image_of(rows, picture) as gray_or_rgb:
        image, icc = as_rgb(gray_or_rgb, metadata.icc)
        # libvips writes this resolution into every EXIF block.
        across, down = (exif and resolution(exif)) or (_UNTOLD_DPI, _UNTOLD_DPI)
        image = image.copy(xres=across / _MILLIMETRES, yres=down / _MILLIMETRES)
        blobs = {
            "icc-profile-data": icc,
            "exif-data": exif and b"Exif\0\0" + exif,
            "xmp-data": metadata.xmp,
        }
        for name, blob in blobs.items():
            if blob is not None:
                image.set_type(pyvips.GValue.blob_type, name, blob)
        data = image.heifsave_buffer(
            Q=chosen,
            lossless=chosen == _LOSSLESS,
            compression="av1",
            effort=_EFFORT,
            bitdepth=_DEEP_BITS if picture.bits > 8 else 8,
            subsample_mode="off",
            # Without this libvips would add a block that states an unknown resolution.
            keep=_KEPT | (ForeignKeep.EXIF if exif else ForeignKeep.NONE),
        )
    file.write(data)
