"""Pictures that Pillow decodes: all at once, with 8 bits per channel."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING

import pyvips

from upscaled_imaging.decoded import decoded_image
from upscaled_imaging.formats import decoder_error
from upscaled_imaging.origin import Origin
from upscaled_imaging.rows import Picture
from upscaled_protocol.errors import ErrorCode, JobError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_BANDS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_CONVERTED = {"1": "L", "P": "RGB"}
_UNSUPPORTED = "Unsupported "
# The exceptions of Pillow's readers for broken files.
_ERRORS = (
    ArithmeticError,
    AssertionError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)


def load_by_pillow(
    kind: type[ImageFile],
    origin: Origin,
    fields: Mapping[str, bytes | int | None],
    warn: Callable[[str], None],
    *,
    is_opaque: bool = False,
) -> pyvips.Image:
    """The picture, whose size was checked before. fields: as for `decoded_image`.

    A palette becomes RGB. is_opaque: the file's fourth channel is not transparency. The same is
    assumed if every pixel were transparent, because programs without alpha leave zeros there.

    Raises `JobError` (input_unreadable, unsupported_format, out_of_memory).
    """
    try:
        # The class itself, because `Image.open` has a limit of its own.
        with kind(BytesIO(origin.read_at(0, origin.size))) as picture:
            mode = _CONVERTED.get(picture.mode, picture.mode)
            if picture.palette is not None and picture.palette.mode == "RGBA":
                mode = "RGBA"
            if is_opaque:
                mode = mode.removesuffix("A")
            converted = picture if mode == picture.mode else picture.convert(mode)
            pixels = converted.tobytes()
    except _ERRORS as error:
        if str(error).startswith(_UNSUPPORTED):
            raise JobError(
                ErrorCode.UNSUPPORTED_FORMAT,
                f"the input is a {kind.format} that is not read here ({error}): convert it to "
                "PNG, JPEG, WebP, TIFF or AVIF",
            ) from None
        raise decoder_error(error) from None
    size = Picture(converted.width, converted.height, _BANDS[mode], 8)
    image = decoded_image(memoryview(pixels), size, fields)
    if size.has_alpha and image.extract_band(size.bands - 1).max() == 0:
        warn("every pixel of the input is declared as transparent: it was taken for opaque")
        return image.extract_band(0, n=size.bands - 1)
    return image
