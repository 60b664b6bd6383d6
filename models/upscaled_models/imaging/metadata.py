"""What a picture carries beside its pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from upscaled_models.imaging.exif import revised

# Behind a name in XMP: an attribute, name="1", or an element, <name>1<. Packets come from
# strangers, and searching them holds the interpreter: possessive, so that nothing is tried twice.
_NUMBER = re.compile(rb"(?:\s*+=\s*+[\"']|>)([\d/]++)[\"'<]")


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
        xmp = _with_value(xmp, name.encode(), value.encode())
    # As in EXIF: it shows the picture before whatever was done to it.
    return _without(xmp, b"<xmp:Thumbnails>", b"</xmp:Thumbnails>")


def _with_value(xmp: bytes, name: bytes, value: bytes) -> bytes:
    """The packet with ``value`` for each number that it gives under ``name``."""
    parts, done, at = [], 0, 0
    while (start := xmp.find(name, at)) >= 0:
        at = start + len(name)
        number = _NUMBER.match(xmp, at)
        if number and not xmp[max(0, start - 1) : start].isalnum():
            parts += [xmp[done : number.start(1)], value]
            done = at = number.end(1)
    return b"".join([*parts, xmp[done:]]) if parts else xmp


def _without(xmp: bytes, opening: bytes, closing: bytes) -> bytes:
    """The packet without what lies between the two, and without themselves."""
    parts, done = [], 0
    while (start := xmp.find(opening, done)) >= 0:
        end = xmp.find(closing, start)
        if end < 0:
            break
        parts.append(xmp[done:start])
        done = end + len(closing)
    return b"".join([*parts, xmp[done:]]) if parts else xmp
