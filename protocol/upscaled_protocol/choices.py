"""The values that some fields of a config may have, some defaults, and how files of each format are
named.

Free of pydantic: a command reads this before it imports anything large. `configs.py` has the
fields.
"""

from __future__ import annotations

from typing import Literal

DEFAULT_UPSCALE_FACTOR = 4.0
DEFAULT_DPI = 150
# Of `esrgan`.
DEFAULT_MODEL = "auto"

Crop = Literal[
    "none",
    "center",
    "top",
    "bottom",
    "left",
    "right",
    "top-left",
    "top-right",
    "bottom-left",
    "bottom-right",
]
ImagenFactor = Literal["x2", "x3", "x4"]
OutputFormat = Literal["png", "tiff", "jpeg", "webp", "avif"]

# The format that an output's suffix asks for. A media type is `image/` and the format.
FORMATS: dict[str, OutputFormat] = {
    ".png": "png",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".avif": "avif",
}
# The suffix of an output that the daemon names.
SUFFIXES: dict[OutputFormat, str] = {
    "png": ".png",
    "tiff": ".tif",
    "jpeg": ".jpg",
    "webp": ".webp",
    "avif": ".avif",
}
