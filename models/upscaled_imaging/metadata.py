"""A picture's metadata."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from upscaled_imaging.exif import revised
from upscaled_imaging.xmp import revised_xmp

# The name of a text without one: PNG has registered it, and JPEG and GIF texts have no name.
COMMENT = "Comment"
# Files of some formats have dots per metre.
METRES_PER_INCH = 0.0254


class Text(NamedTuple):
    """A text and its keyword: "Description", "Author", "Comment", ..."""

    keyword: str
    text: str


@dataclass(frozen=True)
class Metadata:
    """Metadata that is kept from the input to the output, in the place that each format has for it.

    icc: colour profile. exif: from its byte order on. xmp: the XML packet. dpi: dots per inch.
    iptc: captions, as records. texts: PNG's, and the comments of JPEG and GIF.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: float | None = None
    iptc: bytes | None = None
    texts: tuple[Text, ...] = ()

    def resized(self, width: int, height: int, dpi: float | None) -> Metadata:
        """The metadata of the upright output, with its size, orientation and resolution."""
        exif = self.exif and revised(self.exif, width=width, height=height, dpi=dpi)
        xmp = self.xmp and revised_xmp(self.xmp, width, height, dpi)
        return replace(self, exif=exif, xmp=xmp, dpi=dpi)

    def exif_with_dpi(self) -> bytes | None:
        """The EXIF block, or a new one, for formats that keep the resolution only there."""
        if self.exif is None and self.dpi is not None:
            return revised(None, width=0, height=0, dpi=self.dpi)
        return self.exif
