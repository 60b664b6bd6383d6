"""Properties of a file that decide how it is read, and the errors of loaders."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any, Literal

import pyvips

from upscaled_imaging import heifitem
from upscaled_imaging.chunks import ReadAt, boxes_at, png_chunks
from upscaled_imaging.heifitem import HEIF_KINDS
from upscaled_imaging.jxlheader import jxl_header
from upscaled_imaging.libvips import is_out_of_memory, reason
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.requirements import unsuitable, wanted

# The least that libvips makes an error among the pixels.
FailOn = Literal["error", "warning"]

_LOADERS = {"avif": "heifload_source"}
_ANIMATED_WEBP = 0x02
# The major brands of a HEIF whose main content is an image sequence.
_FILMS = (b"avis", b"hevc", b"hevx", b"msf1")
# The messages of libheif and Pillow if memory ran out.
_NO_MEMORY = re.compile(r"^Out of memory|Allocating \d+ bytes failed|cannot allocate memory")


def is_animated(kind: str, read_at: ReadAt, image: pyvips.Image) -> bool:
    """True if the file is an animation of several frames."""
    if kind == "png":
        return _apng_frames(read_at) > 1
    if kind == "webp":
        head = read_at(0, 21)
        animated = head[12:16] == b"VP8X" and bool(head[20] & _ANIMATED_WEBP)
        return animated and pages(image) > 1
    if kind == "avif":
        return is_film(read_at)
    return kind == "gif" and pages(image) > 1


def animated() -> JobError:
    """The error of an animation."""
    return JobError(
        ErrorCode.UNSUPPORTED_FORMAT,
        "the input is animated: send its frames as separate pictures",
    )


def is_film(read_at: ReadAt) -> bool:
    """True if a HEIF is a sequence of several frames, or of an unknown number."""
    return read_at(8, 4) in _FILMS and _film_frames(read_at) != 1


def _apng_frames(read_at: ReadAt) -> int:
    """The number of frames that a PNG declares; 0 if it declares none.

    Source: PNG specification, third edition, 11.3.5.2.
    """
    control = next((chunk for chunk in png_chunks(read_at) if chunk.kind == b"acTL"), None)
    return 0 if control is None else int.from_bytes(read_at(control.start, 4))


def _film_frames(read_at: ReadAt) -> int | None:
    """The number of frames of a sequence's first track; None if it is not stated.

    Source: ISO/IEC 14496-12, 8.7.3.2 (stsz: version and flags, size, count).
    """
    table = boxes_at(read_at, b"moov", b"trak", b"mdia", b"minf", b"stbl")
    sizes = next((box for box in table if box.kind == b"stsz"), None)
    return None if sizes is None else int.from_bytes(read_at(sizes.start + 8, 4))


def is_turned(kind: str, read_at: ReadAt) -> bool:
    """True if the file makes the decoder turn, mirror or crop the picture."""
    if kind in HEIF_KINDS:
        return heifitem.is_turned(read_at)
    return kind == "jxl" and jxl_header(read_at).is_turned


def is_premultiplied(kind: str, read_at: ReadAt) -> bool:
    """True if the colours are premultiplied. TIFF is not looked at: its loader divides them."""
    return kind in HEIF_KINDS and any(
        box.kind == b"prem" for box in boxes_at(read_at, b"meta", b"iref")
    )


def pictures(kind: str, read_at: ReadAt, image: pyvips.Image) -> int:
    """The number of pictures in the file, also of those that libvips does not count."""
    if kind == "png" and _apng_frames(read_at) == 1:
        # Without a control chunk before its pixels, the PNG's main picture is not a frame.
        return 1 if any(chunk.kind == b"fcTL" for chunk in png_chunks(read_at)) else 2
    return pages(image)


def pages(image: pyvips.Image) -> int:
    """The number of pictures in the file that libvips counts."""
    return int(image.get("n-pages")) if image.get_typeof("n-pages") else 1


def load(kind: str, source: pyvips.Source, fail_on: FailOn = "error") -> pyvips.Image:
    """The first picture of the file, of which only the header is read yet. Read it once, downwards.

    Raises `JobError` (input_unreadable).
    """
    try:
        return opened(kind, source, fail_on)
    except pyvips.Error as error:
        raise unreadable(error) from None


def opened(kind: str, source: pyvips.Source, fail_on: FailOn) -> pyvips.Image:
    """The same for callers that need libvips' own error, `pyvips.Error`."""
    loader: Any = getattr(pyvips.Image, _LOADERS.get(kind, f"{kind}load_source"))
    return loader(source, access="sequential", fail_on=fail_on)


def unreadable(error: pyvips.Error) -> JobError:
    """The error of an input that is broken or truncated, or too large for the free memory."""
    return _out_of_memory() if is_out_of_memory(error) else broken(reason(error))


def decoder_error(error: Exception) -> JobError:
    """The same for an exception of another decoder than libvips."""
    message = " ".join(str(error).split()).rstrip(".")
    lacks_memory = isinstance(error, MemoryError) or _NO_MEMORY.search(message)
    return _out_of_memory() if lacks_memory else broken(message)


def import_decoder(name: str, module: str, distribution: str) -> Any:
    """The library that decodes a kind.

    name: the kind's usual one. Raises `JobError` (unsupported_format) if the library cannot be
    loaded, or is of a version that may decode wrongly.
    """
    fault, options = unsuitable(distribution), ""
    if fault is None:
        try:
            return import_module(module)
        except ImportError as error:
            fault, options = f"{distribution} does not load ({error})", "--force-reinstall "
    raise JobError(
        ErrorCode.UNSUPPORTED_FORMAT,
        f"the input is {name}, and {fault}: run `pip install {options}{wanted(distribution)}`",
    )


def broken(reason: str = "") -> JobError:
    """The error of an input that is broken. reason: the end of its sentence."""
    return JobError(
        ErrorCode.INPUT_UNREADABLE, "the input is broken or truncated" + (reason and f": {reason}")
    )


def _out_of_memory() -> JobError:
    return JobError(
        ErrorCode.OUT_OF_MEMORY,
        "memory ran out as the input was decoded: free some on this machine, or send a "
        "smaller picture",
    )
