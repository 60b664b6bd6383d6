"""A TGA, through Pillow: palettes, run lengths, rows from below or from above, alpha.

Source: Truevision TGA File Format Specification, version 2.0.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pyvips

from upscaled_imaging.colour import straight
from upscaled_imaging.origin import Origin
from upscaled_imaging.pillow import load_by_pillow

_HEADER_BYTES, _FOOTER_BYTES = 18, 26
_SIGNATURE = b"TRUEVISION-XFILE.\0"
# Offset of the alpha type in the extension area of version 2, and its values: none, undefined,
# undefined but to be kept, premultiplied.
_ALPHA, _NO_ALPHA, _MULTIPLIED = 494, (0, 1, 2), 4
_AUTHOR, _COMMENTS, _EXTENSION_BYTES = slice(2, 43), slice(43, 367), 495


def load_tga(
    origin: Origin, check_size: Callable[[int, int], None], warn: Callable[[str], None]
) -> pyvips.Image:
    """The picture; author and comments as "tga-author" and "tga-comments" beside it.

    Raises `JobError` (input_unreadable, unsupported_format, out_of_memory) and what `check_size`
    raises.
    """
    from PIL.TgaImagePlugin import TgaImageFile

    header = origin.read_at(0, _HEADER_BYTES)
    check_size(*struct.unpack_from("<HH", header, 12))
    extension = _extension(origin)
    alpha = extension[_ALPHA] if extension else None
    # A single bit of alpha counts only if the header declares it.
    is_opaque = alpha in _NO_ALPHA or (header[16] == 16 and not header[17] & 0x0F)
    fields = {"tga-author": _text(extension[_AUTHOR]), "tga-comments": _text(extension[_COMMENTS])}
    image = load_by_pillow(TgaImageFile, origin, fields, warn, is_opaque=is_opaque)
    return straight(image) if alpha == _MULTIPLIED and image.bands in (2, 4) else image


def _extension(origin: Origin) -> bytes:
    """The extension area; empty if the file has none."""
    footer = origin.read_at(max(0, origin.size - _FOOTER_BYTES), _FOOTER_BYTES)
    at = int.from_bytes(footer[:4], "little")
    if not footer.endswith(_SIGNATURE) or not at:
        return b""
    data = origin.read_at(at, _EXTENSION_BYTES)
    return data if len(data) == _EXTENSION_BYTES else b""


def _text(data: bytes) -> bytes | None:
    """Zero-padded lines, as one text."""
    return b"\n".join(filter(None, (line.strip() for line in data.split(b"\0")))) or None
