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
    """Whether the file is a film of several frames rather than one picture."""
    if kind == "png":
        return _apng_frames(read_at) > 1
    if kind == "webp":
        head = read_at(0, 21)
        animated = head[12:16] == b"VP8X" and bool(head[20] & _ANIMATED_WEBP)
        return animated and pages(image) > 1
    if kind == "avif":
        return read_at(8, 4) == b"avis" and _avif_frames(read_at) != 1
    return kind == "gif" and pages(image) > 1


def _apng_frames(read_at: ReadAt) -> int:
    """The frames that a PNG announces; 0 if it announces none.

    Source: PNG specification, third edition, 11.3.5.2.
    """
    control = next((chunk for chunk in png_chunks(read_at) if chunk.kind == b"acTL"), None)
    return 0 if control is None else int.from_bytes(read_at(control.start, 4))


def _avif_frames(read_at: ReadAt) -> int | None:
    """The frames of a sequence's first track; None if it does not tell.

    Source: ISO/IEC 14496-12, 8.7.3.2 (stsz: version and flags, size, count).
    """
    table = boxes_at(read_at, b"moov", b"trak", b"mdia", b"minf", b"stbl")
    sizes = next((box for box in table if box.kind == b"stsz"), None)
    return None if sizes is None else int.from_bytes(read_at(sizes.start + 8, 4))


def is_premultiplied(kind: str, read_at: ReadAt) -> bool:
    """Whether the colours were multiplied by their alpha; libvips does so with TIFF itself."""
    return kind == "avif" and any(
        box.kind == b"prem" for box in boxes_at(read_at, b"meta", b"iref")
    )


def pictures(kind: str, read_at: ReadAt, image: pyvips.Image) -> int:
    """Pictures in the file, also those that libvips does not see."""
    if kind == "png" and _apng_frames(read_at) == 1:
        # Without a control chunk in front of its pixels, the PNG's own picture is no frame.
        return 1 if any(chunk.kind == b"fcTL" for chunk in png_chunks(read_at)) else 2
    return pages(image)


def pages(image: pyvips.Image) -> int:
    """Pictures in the file that libvips sees."""
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
