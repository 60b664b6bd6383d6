"""Which loader reads a picture, whether it is one at all, and what a loader's failure means."""

from __future__ import annotations

from typing import Any

import pyvips

from upscaled_models.imaging.chunks import ReadAt, boxes_at, png_chunks
from upscaled_models.imaging.libvips import is_out_of_memory, reason
from upscaled_protocol.errors import ErrorCode, JobError

_LOADERS = {"avif": "heifload_source"}
_ANIMATED_WEBP = 0x02


def is_animated(kind: str, read_at: ReadAt, image: pyvips.Image) -> bool:
    """Whether the file is a film of frames rather than one picture."""
    if kind == "png":
        return any(chunk.kind == b"acTL" for chunk in png_chunks(read_at))
    if kind == "webp":
        head = read_at(0, 21)
        return head[12:16] == b"VP8X" and bool(head[20] & _ANIMATED_WEBP)
    if kind == "avif":
        return read_at(8, 4) == b"avis"
    return kind == "gif" and pages(image) > 1


def is_premultiplied(kind: str, read_at: ReadAt) -> bool:
    """Whether the colours were multiplied by their alpha; libvips does so with TIFF itself."""
    return kind == "avif" and any(
        box.kind == b"prem" for box in boxes_at(read_at, b"meta", b"iref")
    )


def pages(image: pyvips.Image) -> int:
    """Pictures in the file."""
    return int(image.get("n-pages")) if image.get_typeof("n-pages") else 1


def load(kind: str, source: pyvips.Source) -> pyvips.Image:
    """The first picture of the file, to be read once from the top down; only its header is read.

    Raises `JobError` (input_unreadable).
    """
    loader: Any = getattr(pyvips.Image, _LOADERS.get(kind, f"{kind}load_source"))
    try:
        return loader(source, access="sequential", fail_on="error")
    except pyvips.Error as error:
        raise unreadable(error) from None


def unreadable(error: pyvips.Error) -> JobError:
    """The error of an input that is broken or truncated, or that there is no memory for."""
    if is_out_of_memory(error):
        return JobError(
            ErrorCode.OUT_OF_MEMORY,
            "memory ran out as the input was decoded: free some on this machine, or send a "
            "smaller picture",
        )
    told = reason(error)
    return JobError(
        ErrorCode.INPUT_UNREADABLE, "the input is broken or truncated" + (told and f": {told}")
    )
