"""What a picture carries beside its pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from upscaled_imaging.exif import revised
from upscaled_imaging.xmp import revised_xmp

# What a text without any name is: PNG registers it, and JPEG and GIF have only such.
COMMENT = "Comment"


class Text(NamedTuple):
    """A text, and what it is about: "Description", "Author", "Comment", ..."""

    keyword: str
    text: str


@dataclass(frozen=True)
class Metadata:
    """Kept from the input to the output, in each format's own place for it.

    icc: colour profile. exif: from its byte order on. xmp: the XML packet. dpi: dots an inch.
    iptc: captions, as records. texts: PNG's, and the comments of JPEG and GIF.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: float | None = None
    iptc: bytes | None = None
    texts: tuple[Text, ...] = ()

    def resized(self, width: int, height: int, dpi: float | None) -> Metadata:
        """The same for the upright output: sizes, orientation and resolution follow the pixels."""
        exif = self.exif and revised(self.exif, width=width, height=height, dpi=dpi)
        xmp = self.xmp and revised_xmp(self.xmp, width, height, dpi)
        return replace(self, exif=exif, xmp=xmp, dpi=dpi)

    def exif_with_dpi(self) -> bytes | None:
        """The EXIF block, made for the resolution alone where the format has no other place."""
        if self.exif is None and self.dpi is not None:
            return revised(None, width=0, height=0, dpi=self.dpi)
        return self.exif
