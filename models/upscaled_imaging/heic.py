"""A HEIC, as phones make them, through `pillow-heif` (libheif, libde265).

The libheif of libvips has no HEVC decoder. The file and the picture are held in memory: 5 bytes per
pixel if a channel has 8 bits, 17 bytes if it has more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pyvips

from upscaled_imaging.decoded import decoded_image
from upscaled_imaging.formats import decoder_error, import_decoder
from upscaled_imaging.libvips import THREADS
from upscaled_imaging.origin import Origin
from upscaled_imaging.rows import Picture

_BANDS = {"L": 1, "I": 1, "RGB": 3, "RGBA": 4, "RGBa": 4}
# XML may begin with a byte order mark.
_XML_STARTS = (b"<", b"\xef\xbb\xbf<")


def load_heic(
    origin: Origin, check_size: Callable[[int, int], None], warn: Callable[[str], None]
) -> pyvips.Image:
    """The main picture, turned, mirrored and cropped as the file asks for.

    `check_size` is called before anything is decoded. Raises `JobError` (input_unreadable,
    out_of_memory, unsupported_format) and what `check_size` raises.
    """
    library = _library()
    try:
        file = library.HeifFile(origin.read_at(0, origin.size), convert_hdr_to_8bit=False)
        picture = file[file.primary_index] if len(file) else None
        if picture is None or not picture.info["primary"]:  # any other may be a thumbnail
            raise ValueError("its main picture is missing")
        check_size(*picture.size)
        pixels = picture.data
    except (EOFError, MemoryError, OSError, RuntimeError, SyntaxError, ValueError) as error:
        raise decoder_error(error) from None
    info = picture.info
    xmp = info.get("xmp")
    if xmp is not None and not xmp.startswith(_XML_STARTS):
        warn("the input has metadata of an unknown kind: left out")
        xmp = None
    fields = {
        "n-pages": len(file),
        "bits-per-sample": info["bit_depth"],
        "icc-profile-data": info.get("icc_profile") or None,
        "exif-data": info["exif"] or None,
        "xmp-data": xmp and xmp.rstrip(b"\0"),
        "iptc-data": next((one["data"] for one in info["metadata"] if one["type"] == "iptc"), None),
    }
    (width, height), bands = picture.size, _BANDS[picture.mode.split(";")[0]]
    bits = 16 if info["bit_depth"] > 8 else 8
    return decoded_image(pixels, Picture(width, height, bands, bits), fields)


@cache
def _library() -> Any:
    # Up to 1.5 its pixels lie in memory that is freed while they are read.
    library = import_decoder("HEIC", "pillow_heif", "pillow-heif")
    # Each of these would cost a copy per picture of the file.
    library.options.THUMBNAILS = False
    library.options.DEPTH_IMAGES = False
    library.options.AUX_IMAGES = False
    library.options.DECODE_THREADS = THREADS
    return library
