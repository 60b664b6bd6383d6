"""A JPEG XL, through OpenImageIO (libjxl), which keeps 16 bits and the profile of the pixels.

The picture is decoded in one call that holds Python's interpreter lock. It takes 11 bytes per pixel
if a channel has 8 bits, and 17 bytes if it has more. pillow-jxl-plugin reduces 16 bits to 8, and
imagecodecs drops the profile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyvips

from upscaled_imaging.chunks import ReadAt
from upscaled_imaging.colour import straight
from upscaled_imaging.decoded import decoded_image
from upscaled_imaging.formats import animated, broken, decoder_error, import_decoder
from upscaled_imaging.jxlheader import ALPHA, BLACK, JxlHeader, jxl_boxes, jxl_header
from upscaled_imaging.libvips import THREADS
from upscaled_imaging.origin import Origin
from upscaled_imaging.pendingfile import temporary_file
from upscaled_imaging.rows import Picture
from upscaled_protocol.errors import ErrorCode, JobError

_DEEPEST_BITS = 16
_COPIED_BYTES = 1024 * 1024
# OpenImageIO looks for the signature in so many bytes, and refuses a shorter file. libjxl does not
# look at zeros behind the picture.
_LEAST_BYTES = 128
# Code points of sRGB's primaries, or of gray, and its curve; curves of HDR (ITU-T H.273).
_SRGB = ((1, 13), (0, 13))
_HDR = {16: "PQ", 18: "HLG"}
_NAMES = {b"Exif": "EXIF", b"xml ": "XMP"}
_EXIF_OFFSET_BYTES = 4
# Much larger than any real block.
_LONGEST_METADATA_BYTES = 16 * 1024 * 1024


def load_jxl(
    origin: Origin, check_size: Callable[[int, int], None], warn: Callable[[str], None]
) -> pyvips.Image:
    """The picture, turned as the file asks for.

    `check_size` is called before anything is decoded. Raises `JobError` (input_unreadable,
    unsupported_format, out_of_memory) and what `check_size` raises.
    """
    try:
        header = jxl_header(origin.read_at)
    except ValueError as error:
        raise broken(str(error)) from None
    check_size(header.width, header.height)
    _check(header)
    fields = _metadata(origin.read_at, warn)
    with temporary_file() as file:
        for at in range(0, origin.size, _COPIED_BYTES):
            file.write(origin.read_at(at, _COPIED_BYTES))
        file.write(bytes(max(0, _LEAST_BYTES - origin.size)))
        file.seek(0)
        pixels, profile = _decoded(f"/dev/fd/{file.fileno()}", header, warn)
    height, width, bands = pixels.shape
    bits = 16 if pixels.dtype == np.uint16 else 8
    picture = Picture(width, height, bands, bits)
    image = decoded_image(pixels.data.cast("B"), picture, fields | {"icc-profile-data": profile})
    return straight(image) if header.is_premultiplied and picture.has_alpha else image


def _check(header: JxlHeader) -> None:
    if header.is_animated:
        raise animated()
    what = ""
    if header.is_float:
        what = "has floating point pixels"
    elif header.bits > _DEEPEST_BITS:
        what = f"has {header.bits} bits per channel"
    elif BLACK in header.extra:
        what = "has CMYK pixels"
    if what:
        raise JobError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"the input is a JPEG XL that {what}, which is not read here: convert it to gray or "
            "RGB of 8 or 16 bits per channel",
        )


def _decoded(
    path: str, header: JxlHeader, warn: Callable[[str], None]
) -> tuple[np.ndarray, bytes | None]:
    """Colours and alpha, and the profile unless it is sRGB."""
    library = _library()
    try:
        file = library.ImageInput.open(path)
        if file is None:
            library.geterror()  # clears the error: it only says that no other format fits either
            raise broken()
        spec = file.spec()
        pixels = file.read_image(spec.format)
        if pixels is None:
            raise broken(" ".join(file.geterror().split()))
        profile, points = spec.getattribute("ICCProfile"), spec.getattribute("CICP")
        file.close()
    except (MemoryError, RuntimeError, ValueError) as error:
        raise decoder_error(error) from None
    if pixels.dtype not in (np.uint8, np.uint16):
        raise broken(f"it holds {pixels.dtype} pixels")
    colours = pixels.shape[2] - len(header.extra)
    wanted = [*range(colours)]
    if ALPHA in header.extra:
        wanted.append(colours + header.extra.index(ALPHA))
    if len(wanted) < pixels.shape[2]:
        left = pixels.shape[2] - len(wanted)
        warn(f"the input has {left} channels beside its colours and transparency: left out")
        pixels = pixels[:, :, wanted]
    if points is not None and points[1] in _HDR:
        warn(
            f"the input is HDR ({_HDR[points[1]]}): its profile is kept, and programs that do not "
            "use profiles will show it flat"
        )
    is_srgb = points is not None and tuple(points[:2]) in _SRGB
    icc = None if profile is None or is_srgb else profile.tobytes()
    return np.ascontiguousarray(pixels), icc


def _metadata(read_at: ReadAt, warn: Callable[[str], None]) -> dict[str, bytes | int | None]:
    """EXIF and XMP, by libvips' names."""
    found: dict[bytes, bytes] = {}
    for box in jxl_boxes(read_at):
        kind, start = box.kind, box.start
        if kind == b"brob":  # compressed; begins with the kind of its contents
            kind, start = read_at(start, 4), start + 4
        if kind not in _NAMES or kind in found:
            continue
        data: bytes | None = read_at(start, min(box.end - start, _LONGEST_METADATA_BYTES + 1))
        if box.kind == b"brob":
            data = _expanded(data or b"")
        if data is None or len(data) > _LONGEST_METADATA_BYTES:
            warn(f"the input's {_NAMES[kind]} is too long or broken: it was left out")
        else:
            found[kind] = data
    exif = found.get(b"Exif", b"")
    offset = _EXIF_OFFSET_BYTES + int.from_bytes(exif[:_EXIF_OFFSET_BYTES])
    return {
        "exif-data": b"Exif\0\0" + exif[offset:] if len(exif) > offset else None,
        "xmp-data": found.get(b"xml ") or None,
    }


def _expanded(data: bytes) -> bytes | None:
    """Expand Brotli data, to one byte above the limit at most; None if it is broken."""
    import brotli

    expander = brotli.Decompressor()
    try:
        expanded: bytes = expander.process(data, output_buffer_limit=_LONGEST_METADATA_BYTES + 1)
    except brotli.error:
        return None
    is_all = expander.is_finished() or len(expanded) > _LONGEST_METADATA_BYTES
    return expanded if is_all else None


@cache
def _library() -> Any:
    # Its packages decode JPEG XL since 3.2.
    library = import_decoder("JPEG XL", "OpenImageIO", "openimageio")
    library.attribute("threads", THREADS)
    return library
