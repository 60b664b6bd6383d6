"""Which reader opens each kind of picture. A new kind is one line here and one in `kinds.py`."""

from __future__ import annotations

from collections.abc import Callable

import pyvips

from upscaled_imaging import formats
from upscaled_imaging.bmp import load_bmp
from upscaled_imaging.chunks import ReadAt
from upscaled_imaging.corruption import PASSED_OVER, load_strictly
from upscaled_imaging.extrasamples import load_tiff
from upscaled_imaging.heic import load_heic
from upscaled_imaging.heickind import check_heic
from upscaled_imaging.jpegkind import check_jpeg
from upscaled_imaging.jxl import load_jxl
from upscaled_imaging.origin import Origin
from upscaled_imaging.tga import load_tga
from upscaled_imaging.tiffkind import check_tiff

CheckSize = Callable[[int, int], None]
Warn = Callable[[str], None]
# Checks before a decoder runs, which would report another error, or read only a part.
_CHECKS: dict[str, Callable[[ReadAt], None]] = {
    "heic": check_heic,
    "jpeg": check_jpeg,
    "tiff": check_tiff,
}
# Kinds that libvips cannot read, or reads wrongly. A reader whose library decodes the whole picture
# at once calls `check_size` before that.
_READERS: dict[str, Callable[[Origin, CheckSize, Warn], pyvips.Image]] = {
    "bmp": load_bmp,
    "heic": load_heic,
    "jxl": load_jxl,
    "tga": load_tga,
    "tiff": load_tiff,
}


def load(kind: str, origin: Origin, check_size: CheckSize, warn: Warn) -> pyvips.Image:
    """The file's main picture. Read it once, from the top down.

    `check_size` is called with its width and height before a pixel is decoded. Raises `JobError`:
    input_unreadable, unsupported_format, out_of_memory, and the error of `check_size`.
    """
    if kind in _CHECKS:
        _CHECKS[kind](origin.read_at)
    if kind in _READERS:
        return _READERS[kind](origin, check_size, warn)
    if kind in PASSED_OVER:
        image = load_strictly(kind, origin, warn)
    else:
        image = formats.load(kind, origin.source)
    check_size(image.width, image.height)
    return image
