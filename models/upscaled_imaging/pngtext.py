"""The texts of a PNG, and the EXIF, XMP and captions that older programs hide in them.

ImageMagick and exiv2 write such blocks in hexadecimal digits, under "Raw profile type exif".
Source: PNG specification, third edition, 11.3.3; exiv2's and ImageMagick's files.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import NamedTuple

from upscaled_imaging.chunks import ReadAt, late_png_chunks, png_chunks
from upscaled_imaging.metadata import Text
from upscaled_imaging.photoshop import IPTC, resource

# All texts of a file together: much more than any real file has.
_MOST_TEXTS = 1000
_MOST_WARNINGS = 5
_LONGEST_BYTES = 16 * 1024 * 1024
# A few bytes can inflate to that size. After so many failures no more texts are inflated.
_MOST_LOST = 8
_KINDS = (b"tEXt", b"zTXt", b"iTXt", b"eXIf")
# The EXIF chunk, under a keyword that no text can have.
_EXIF = "\0eXIf"
_XMP = "XML:com.adobe.xmp"
_RAW = "Raw profile type "
_EXIF_NAME = b"Exif\0\0"
_XMP_NAME = b"http://ns.adobe.com/xap/1.0/\0"
_BYTE_ORDERS = (b"II*\0", b"MM\0*")


class Texts(NamedTuple):
    """The contents of a PNG's text chunks and of its EXIF chunk.

    exif, xmp: without the names in front. photoshop: image resources, or IPTC records.
    """

    exif: bytes | None
    xmp: bytes | None
    photoshop: bytes | None
    texts: tuple[Text, ...]


def png_texts(read_at: ReadAt, warn: Callable[[str], None]) -> Texts:
    """The texts before and behind the pixels; broken and too long ones are left out."""
    found: dict[str, bytes] = {}
    hidden: dict[str, bytes] = {}
    unreadable: dict[str, None] = {}
    texts = []
    for keyword, data, encoding in _chunks(read_at, warn):
        if keyword in (_EXIF, _XMP):
            found.setdefault("exif" if keyword == _EXIF else "xmp", data)
        elif keyword.startswith(_RAW):
            kind = keyword.removeprefix(_RAW).strip()[:20]
            raw = _from_digits(data)
            name, block = _recognised(kind.lower(), raw) if raw is not None else ("", b"")
            if name:
                hidden.setdefault(name, block)
            else:
                unreadable[{"app1": "EXIF or XMP"}.get(kind.lower(), kind.upper())] = None
        else:
            texts.append(Text(keyword, data.decode(encoding, "replace")))
    for what in islice(unreadable, _MOST_WARNINGS):
        warn(f"the input's {what}, stored as a text, cannot be read: it was left out")
    # A separate chunk ranks before a text.
    found = hidden | found
    return Texts(found.get("exif"), found.get("xmp"), found.get("photoshop"), tuple(texts))


def text_chunk(text: Text) -> tuple[bytes, bytes]:
    """The kind and the contents of a chunk that holds the text."""
    keyword = text.keyword.encode("latin-1") + b"\0"
    if text.text.isascii():
        return b"tEXt", keyword + text.text.encode().replace(b"\0", b" ")
    return b"iTXt", keyword + bytes(4) + text.text.encode().replace(b"\0", b" ")


def packed_iptc(iptc: bytes) -> bytes:
    """The contents of a zTXt chunk with captions, in the form of exiftool and ImageMagick."""
    digits = resource(IPTC, iptc).hex()
    lines = [digits[at : at + 72] for at in range(0, len(digits), 72)]
    text = "\n".join(["", "iptc", f"{len(digits) // 2:8}", *lines, ""])
    return f"{_RAW}iptc".encode() + bytes(2) + zlib.compress(text.encode())


def _recognised(kind: str, raw: bytes) -> tuple[str, bytes]:
    """The name of a hidden block, and the block; no name if it is unknown or broken."""
    if kind in ("exif", "app1") and raw.removeprefix(_EXIF_NAME)[:4] in _BYTE_ORDERS:
        return "exif", raw.removeprefix(_EXIF_NAME)
    if kind == "xmp" or (kind == "app1" and raw.startswith(_XMP_NAME)):
        return "xmp", raw.removeprefix(_XMP_NAME)
    if kind in ("iptc", "8bim") and raw[:1] in (b"8", b"\x1c"):
        return "photoshop", raw
    return "", b""


def _from_digits(data: bytes) -> bytes | None:
    """The block in a text: its name, its length, and two digits for each byte."""
    parts = data.split(None, 2)
    try:
        length, block = int(parts[1]), bytes.fromhex(parts[2].decode("ascii"))
    except (ValueError, IndexError):
        return None
    return block[:length] if 0 < length <= len(block) else None


def _chunks(read_at: ReadAt, warn: Callable[[str], None]) -> Iterator[tuple[str, bytes, str]]:
    """Keyword, contents and encoding of each text, and of the EXIF chunk."""
    left, texts_left, lost = _LONGEST_BYTES, _MOST_TEXTS, 0
    for chunk in chain(png_chunks(read_at), late_png_chunks(read_at)):
        if chunk.kind not in _KINDS:
            continue
        length = chunk.end - chunk.start
        is_tried = length <= left and texts_left and lost < _MOST_LOST
        data = read_at(chunk.start, length) if is_tried else b""
        parsed = _parsed(chunk.kind, data, left) if is_tried and len(data) == length else None
        if parsed is None:
            lost += 1
            continue
        keyword, text = parsed
        left -= length + len(text)
        texts_left -= 1
        encoding = "utf-8" if chunk.kind == b"iTXt" else "latin-1"
        yield keyword.decode("latin-1"), text, encoding
    if lost:
        warn(f"{lost} of the input's texts are broken or too long: left out")


def _parsed(kind: bytes, data: bytes, limit: int) -> tuple[bytes, bytes] | None:
    """Keyword and text of a chunk; None if it is broken, or the text longer than `limit`."""
    if kind == b"eXIf":
        return _EXIF.encode(), data.removeprefix(_EXIF_NAME)
    keyword, _, rest = data.partition(b"\0")
    is_packed = kind == b"zTXt"
    if is_packed:
        rest = rest[1:]
    elif kind == b"iTXt":
        is_packed, parts = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
        rest = parts[-1] if len(parts) == 3 else b""
    if not keyword:
        return None
    if not is_packed:
        return keyword, rest
    unpack = zlib.decompressobj()
    try:
        text = unpack.decompress(rest, max(limit, 1))
    except zlib.error:
        return None
    return (keyword, text) if unpack.eof else None
