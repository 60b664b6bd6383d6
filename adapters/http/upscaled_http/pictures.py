"""The kind and the size of an upload, from its first bytes. No pixel is decoded."""

from __future__ import annotations

from pathlib import Path

import imagesize

from upscaled_http.problems import ProblemError, sentence_of
from upscaled_http.records import Pixels
from upscaled_imaging.kinds import HEAD_BYTES, recognise
from upscaled_protocol.errors import ErrorCode, JobError

# Kinds whose size can be read from the header. For other kinds the worker finds it.
_SIZED = frozenset({"png", "jpeg", "webp", "tiff", "avif"})
# A TGA has no signature, so any file may look like one.
_UNSIGNED = frozenset({"tga"})


def picture_size(path: Path, max_megapixels: float) -> Pixels | None:
    """The size of the picture in a file, orientation applied; None if the header does not have it.

    Raises `ProblemError`: unsupported_format, input_unreadable, input_too_large.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        try:
            kind = recognise(head)
        except JobError as error:
            text = sentence_of(error.message)
            raise ProblemError(ErrorCode.UNSUPPORTED_FORMAT, text) from None
        if kind in _UNSIGNED:
            raise ProblemError(
                ErrorCode.UNSUPPORTED_FORMAT,
                "The input is no picture of a known kind: send PNG, JPEG, WebP, TIFF or AVIF.",
            )
        file.seek(0)
        width, height = imagesize.get(file)
    if width < 1 or height < 1:
        if kind not in _SIZED:
            return None
        raise ProblemError(
            ErrorCode.INPUT_UNREADABLE,
            f"The input begins as {kind.upper()}, and its header is broken: send the file again.",
        )
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise ProblemError(
            ErrorCode.INPUT_TOO_LARGE,
            f"The picture has {megapixels:.1f} megapixels ({width} x {height}); the limit is "
            f"{max_megapixels:g}. Send a smaller one.",
        )
    return Pixels(int(width), int(height))
