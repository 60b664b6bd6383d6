"""Pictures as the service takes and gives them: files of 8-bit RGB, without a profile.

Profile, alpha and metadata are not sent: the pixels that come back are in the same colour space as
those that were sent.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pyvips

from upscaled_imaging import formats
from upscaled_imaging.colour import normalised
from upscaled_imaging.dimensions import ASPECT_TOLERANCE
from upscaled_imaging.jpeg import write_jpeg
from upscaled_imaging.kinds import HEAD_BYTES, recognise
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.png import write_png
from upscaled_imaging.read import Source
from upscaled_imaging.rows import Picture, to_eight_bits
from upscaled_models.imagen.layout import MAX_INPUT_BYTES, MAX_OUTPUT_PIXELS
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size

# JPEG qualities if the PNG is too large. At the second even noise fits, because one call takes at
# most 4.25 megapixels.
_QUALITIES = (95, 85)

Read = Callable[[int], np.ndarray]


def to_rgb(rows: np.ndarray, *, has_alpha: bool) -> np.ndarray:
    """(h, W, C) of 8 or 16 bits to (h, W, 3) of 8 bits, without alpha, which is the last band."""
    colours = rows[:, :, :-1] if has_alpha else rows
    if colours.dtype == np.uint16:
        colours = next(to_eight_bits([colours]))
    return np.repeat(colours, 3, axis=2) if colours.shape[2] == 1 else colours


def encoded(rgb: np.ndarray) -> tuple[bytes, str]:
    """A file of (h, W, 3) pixels within the service's limit of bytes, and its MIME type.

    PNG, which is lossless; JPEG if the PNG is too large.
    """
    height, width, bands = rgb.shape
    picture = Picture(width, height, bands, 8)
    file = BytesIO()
    write_png(iter([rgb]), file, picture, Metadata())
    if file.tell() <= MAX_INPUT_BYTES:
        return file.getvalue(), "image/png"
    for quality in _QUALITIES:
        file = BytesIO()
        write_jpeg(iter([rgb]), file, picture, Metadata(), quality)
        if file.tell() <= MAX_INPUT_BYTES:
            break
    return file.getvalue(), "image/jpeg"


def open_answer(data: bytes, due: Size, bands: int, warn: Callable[[str], None]) -> Read:
    """Rows of the service's picture, (h, W, bands) of 8 bits with bands 1 or 3, from the top down.

    The picture is decoded while rows are asked for. If it has another size but the right aspect
    ratio, and at least half of the width that is due, it is resampled. Raises `JobError`
    (upstream_unavailable), also while rows are read.
    """
    try:
        kind = recognise(data[:HEAD_BYTES])
        image = formats.load(kind, pyvips.Source.new_from_memory(data))
        shape = image.width / image.height
        is_too_large = image.width * image.height > MAX_OUTPUT_PIXELS
        # The least factor is 2: with less than half, the service made the picture smaller.
        is_too_small = 2 * image.width < due.width
        if (
            is_too_large
            or is_too_small
            or abs(shape - due.width / due.height) > ASPECT_TOLERANCE * shape
        ):
            raise _unusable(f"of {image.width}x{image.height}, not {due.width}x{due.height}")
        if (image.width, image.height) != (due.width, due.height):
            warn(
                f"the cloud service gave {image.width}x{image.height} pixels, not "
                f"{due.width}x{due.height}: they were resampled"
            )
            image = image.resize(due.width / image.width, vscale=due.height / image.height)
        image, _ = normalised(image, warn)
        source = Source(image, Metadata(), None, "")
    except (pyvips.Error, JobError) as error:
        raise _as_unusable(error) from None

    return _Answer(data, source, bands).rows


class _Answer:
    def __init__(self, data: bytes, source: Source, bands: int) -> None:
        self._held = data  # libvips reads it, but does not keep it in memory
        self._source = source
        self._bands = bands

    def rows(self, count: int) -> np.ndarray:
        try:
            rows = to_rgb(self._source.rows(count), has_alpha=self._source.has_alpha)
        except JobError as error:
            raise _as_unusable(error) from None
        if self._bands == 1:
            rows = np.rint(rows.mean(axis=2, keepdims=True)).astype(np.uint8)
        return rows


def _as_unusable(error: Exception) -> JobError:
    if isinstance(error, JobError) and error.code == ErrorCode.UPSTREAM_UNAVAILABLE:
        return error
    return _unusable("that cannot be read")


def _unusable(what: str) -> JobError:
    return JobError(
        ErrorCode.UPSTREAM_UNAVAILABLE, f"the cloud service answered with a picture {what}"
    )
