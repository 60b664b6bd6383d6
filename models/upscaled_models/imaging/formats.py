"""Which files are pictures, by their first bytes, and which loader reads them."""

from __future__ import annotations

import re
from typing import Any

import pyvips

from upscaled_models.imaging.chunks import ReadAt, boxes_at, png_chunks
from upscaled_models.imaging.libvips import is_out_of_memory, reason
from upscaled_protocol.errors import ErrorCode, JobError

# Bytes of a file that tell its kind.
HEAD_BYTES = 512

_KINDS = {
    "png": rb"\x89PNG\r\n\x1a\n",
    "jpeg": rb"\xff\xd8\xff",
    "webp": rb"RIFF....WEBP",
    "tiff": rb"II[*+]\0|MM\0[*+]",
    "avif": rb"....ftyp(avif|avis|(mif1|miaf|msf1).*avif)",
    "gif": rb"GIF8[79]a",
}
_LOADERS = {"avif": "heifload_source"}
# Formats that people do send, told apart from broken files.
_OTHERS = {
    "HEIC": rb"....ftyp(hei|hev|mif1|msf1)",
    "BMP": rb"BM....\0\0\0\0",
    "SVG": rb"\s*<([?!].*<)?(svg|!DOCTYPE svg)",
    "PDF": rb"%PDF-",
    "PSD": rb"8BPS",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "Radiance HDR": rb"#\?RADIANCE",
    "ICO": rb"\0\0\x01\0",
    "PNM": rb"P[1-7]\s",
}
_ANIMATED_WEBP = 0x02


def recognise(head: bytes) -> str:
    """The kind of file that begins with ``head``: png, jpeg, webp, tiff, avif or gif.

    Raises `JobError`: unsupported_format for other pictures, input_unreadable for anything else.
    """
    if not head:
        raise JobError(ErrorCode.INPUT_UNREADABLE, "the input is empty")
    for kind, pattern in _KINDS.items():
        if re.match(pattern, head, re.DOTALL):
            return kind
    for name, pattern in _OTHERS.items():
        if re.match(pattern, head, re.DOTALL):
            raise JobError(
                ErrorCode.UNSUPPORTED_FORMAT,
                f"the input is {name}, which is not read here: convert it to PNG, JPEG, WebP, "
                "TIFF or AVIF",
            )
    raise JobError(ErrorCode.INPUT_UNREADABLE, "the input is no picture of a known kind")


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
