"""Pillow's pictures as files, and back. Imported only if one is used."""

from __future__ import annotations

from io import BytesIO
from typing import Any, BinaryIO

from PIL import Image, PngImagePlugin

# Modes that PNG has. Mode `I` is written with 16 bits.
_AS_THEY_ARE = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B"})
_CONVERTED = {"I": "I;16", "I;16L": "I;16", "I;16N": "I;16", "PA": "RGBA", "RGBX": "RGB"}
_CONVERTED |= {"La": "LA", "RGBa": "RGBA", "YCbCr": "RGB", "HSV": "RGB"}


def write_image(image: Image.Image, file: BinaryIO) -> None:
    """Write it without loss, with its profile, DPI, transparency and EXIF, orientation included.

    Raises `ValueError` if the daemon cannot read the mode.
    """
    # Pillow writes the profile and the transparency by itself.
    kept: dict[str, Any] = {}
    if dpi := image.info.get("dpi"):
        kept["dpi"] = dpi
    if exif := image.getexif():
        kept["exif"] = exif.tobytes()
    if image.mode == "CMYK":
        image.save(file, "TIFF", **kept)
        return
    if image.mode not in _AS_THEY_ARE:
        if image.mode not in _CONVERTED:
            raise ValueError(
                f"a picture of mode {image.mode} is not read here: convert it to RGB or L first"
            )
        image = image.convert(_CONVERTED[image.mode])
    image.save(file, "PNG", compress_level=1, **kept)


def read_image(data: bytes) -> Image.Image:
    """The picture of a file that the daemon wrote, with its profile and DPI in `info`."""
    file = BytesIO(data)
    if data.startswith(b"\x89PNG"):
        # Not `Image.open`, which refuses large pictures: the daemon's files are trusted.
        image: Image.Image = PngImagePlugin.PngImageFile(file)
    else:
        image = Image.open(file)
    image.load()
    return image
