"""An AVIF, through libvips and libheif. The encoder needs the whole picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyvips
from pyvips.enums import ForeignKeep

from upscaled_imaging.avifexif import STAND_IN, with_exif
from upscaled_imaging.colour import as_rgb
from upscaled_imaging.libvips import image_of
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.rows import Picture

_DEFAULT_QUALITY = 85
_LOSSLESS = 100
# libvips' default, effort 4, takes seven times the processor time for a file of the same size.
_EFFORT = 3
# The most bits per channel that AV1 stores.
_DEEP_BITS = 12
_KEPT = ForeignKeep.ICC | ForeignKeep.XMP


def write_avif(
    rows: Iterator[np.ndarray],
    file: BinaryIO,
    picture: Picture,
    metadata: Metadata,
    quality: int | None,
) -> None:
    """Write `rows` with full chroma resolution, 16 bits per channel as 12.

    Quality 100 is lossless for 8 bits per channel. Gray is stored as RGB.
    """
    chosen = quality or _DEFAULT_QUALITY
    exif = metadata.exif_with_dpi()
    with image_of(rows, picture) as gray_or_rgb:
        image, icc = as_rgb(gray_or_rgb, metadata.icc)
        image = image.copy()
        blobs = {
            "icc-profile-data": icc,
            "exif-data": exif and STAND_IN,
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
    file.write(data if exif is None else with_exif(data, exif))
