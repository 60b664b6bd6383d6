"""What a picture carries beside its pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from upscaled_models.imaging.exif import revised


@dataclass(frozen=True)
class Metadata:
    """Kept from the input to the output, in each format's own place for it.

    icc: colour profile. exif: from its byte order on. xmp: the XML packet. dpi: dots an inch.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: float | None = None

    def resized(self, width: int, height: int, dpi: float | None) -> Metadata:
        """The same for the upright output: sizes, orientation and resolution follow the pixels."""
        exif = self.exif and revised(self.exif, width=width, height=height, dpi=dpi)
        xmp = self.xmp and _revised_xmp(self.xmp, width, height, dpi)
        return replace(self, exif=exif, xmp=xmp, dpi=dpi)

    def exif_with_dpi(self) -> bytes | None:
        """The EXIF block, made for the resolution alone where the format has no other place."""
        if self.exif is None and self.dpi is not None:
            return revised(None, width=0, height=0, dpi=self.dpi)
        return self.exif


def _revised_xmp(xmp: bytes, width: int, height: int, dpi: float | None) -> bytes:
    values = {
        "tiff:Orientation": "1",
        "tiff:ImageWidth": str(width),
        "tiff:ImageLength": str(height),
        "exif:PixelXDimension": str(width),
        "exif:PixelYDimension": str(height),
    }
    if dpi is not None:
        resolution = f"{round(dpi * 10_000)}/10000"
        values |= {"tiff:XResolution": resolution, "tiff:YResolution": resolution}
        values |= {"tiff:ResolutionUnit": "2"}
    for name, value in values.items():
        # As an attribute, name="1", or as an element, <name>1<.
        pattern = rb"(\b" + name.encode() + rb"(?:\s*=\s*[\"']|>))[\d/]+(?=[\"'<])"
        xmp = re.sub(pattern, rb"\g<1>" + value.encode(), xmp)
    # As in EXIF: it shows the picture before whatever was done to it.
    return re.sub(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", b"", xmp, flags=re.DOTALL)
