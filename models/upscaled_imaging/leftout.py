"""Contents of a file that no output can keep: a warning names each of them.

Source: CIPA DC-007 (MPF), ISO 21496-1 (gain maps), C2PA 2.1, ISO/IEC 23008-12 (auxiliary pictures),
Adobe's TIFF technical notes, GeoTIFF 1.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from upscaled_imaging.chunks import (
    ReadAt,
    boxes_at,
    jpeg_end,
    jpeg_segments,
    png_chunks,
    webp_chunks,
)
from upscaled_imaging.exif import DESCRIPTION, DESCRIPTIVE, LAYOUT_BYTES, is_layout
from upscaled_imaging.jxlheader import jxl_boxes
from upscaled_imaging.tags import Reader

GAIN_MAP = "the input has an HDR gain map, which nothing here can keep: it was left out"
_CREDENTIALS = "content credentials (C2PA), which apply to its own pixels only"
_FURTHER_PICTURES = "further pictures, such as a preview or a gain map"
_FILM = "the film of a motion photo"
# By a JPEG's marker and the first bytes of the segment. The first match counts.
_SEGMENTS = (
    (0xE2, b"MPF\0", _FURTHER_PICTURES),
    (0xE2, b"urn:iso:std:iso:ts:21496", "an HDR gain map"),
    (0xE1, b"http://ns.adobe.com/xmp/extension/", "an extended XMP packet"),
    (0xEB, b"JP", _CREDENTIALS),
)
# Segments that are read elsewhere, or only describe how the pixels are stored.
_KNOWN = {
    0xE0: (b"JFIF\0", b"JFXX\0", b"AVI1"),
    0xE1: (b"Exif\0", b"http://ns.adobe.com/xap/1.0/"),
    0xE2: (b"ICC_PROFILE\0",),
    0xEC: (b"Ducky",),
    0xED: (b"Photoshop 3.0\0", b"Adobe_CM"),
    0xEE: (b"Adobe",),
}
_MOST_WARNINGS = 10
_APPENDED_BYTES = 4096
_FIRST_APP, _LAST_APP = 0xE0, 0xEF
_XMP_NAMES = (
    (b"http://ns.adobe.com/hdr-gain-map/", "an HDR gain map"),
    (b"http://ns.google.com/photos/1.0/depthmap/", "a depth map"),
    (b"MotionPhoto=", _FILM),
    (b"MicroVideo=", _FILM),
)
_TIFF_TAGS = {
    37724: "Photoshop's layers",
    **dict.fromkeys((33550, 33922, 34264, 34735), "its place on a map (GeoTIFF)"),
    **dict.fromkeys((50838, 50839), "ImageJ's metadata"),
    42112: "GDAL's metadata",
}
_FIRST_PRIVATE_TAG = 32_768
# Tags that are kept, or read elsewhere, or only concern storage, printing or padding.
_KNOWN_TAGS = (
    DESCRIPTIVE
    | set(range(32_994, 32_999))
    | {32_781, 32_932, 33_723, 34_377, 34_665, 34_675, 34_853, 40_965, 50_341, 59_932}
)
# The standard chunks of PNG and APNG, without the three for a physical scale or position.
_CHUNKS = frozenset(
    b"IHDR PLTE IDAT IEND tRNS cHRM gAMA iCCP sBIT sRGB cICP mDCV cLLI mDCv cLLi tEXt zTXt iTXt "
    b"bKGD hIST pHYs sPLT eXIf tIME acTL fcTL fdAT iDOT CgBI".split()
)
_WEBP_CHUNKS = (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ICCP", b"EXIF", b"XMP ", b"ANIM", b"ANMF")
_JXL_BOXES = (b"JXL ", b"ftyp", b"jxll", b"jxlc", b"jxlp", b"jxli", b"jbrd", b"Exif", b"xml ")
_LONGEST_LIST_BYTES = 65_536
_C2PA_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_AUXILIARY = {
    b"depth": "a depth map",
    b"urn:mpeg:hevc:2015:auxid:2": "a depth map",
    b"gainmap": "an HDR gain map",
}


def warn_of_left_out(
    kind: str, read_at: ReadAt, xmp: bytes | None, warn: Callable[[str], None]
) -> None:
    """Warn of each such item once."""
    found = dict.fromkeys(_of_xmp(xmp or b""))
    found |= dict.fromkeys(_READERS.get(kind, _of_nothing)(read_at))
    if "an HDR gain map" in found:
        found.pop(_FURTHER_PICTURES, None)  # the gain map is one of the further pictures
    for what in islice(found, _MOST_WARNINGS):
        if what == "an HDR gain map":
            warn(GAIN_MAP)
        else:
            warn(f"the input has {what}: left out")
    if len(found) > _MOST_WARNINGS:
        warn(f"the input has {len(found) - _MOST_WARNINGS} more such things: left out")


def _of_nothing(read_at: ReadAt) -> Iterable[str]:  # noqa: ARG001 - one signature for all
    return ()


def _of_xmp(xmp: bytes) -> Iterator[str]:
    yield from (what for name, what in _XMP_NAMES if name in xmp)


def _of_jpeg(read_at: ReadAt) -> Iterator[str]:
    for segment in jpeg_segments(read_at):
        marker = segment.kind[0]
        head = read_at(segment.start, min(40, segment.end - segment.start))
        if not _FIRST_APP <= marker <= _LAST_APP or head.startswith(_KNOWN.get(marker, ())):
            continue
        names = (
            what
            for its_marker, start, what in _SEGMENTS
            if marker == its_marker and head.startswith(start)
        )
        name = head.split(b"\0")[0].decode("latin-1")
        is_plain = name.isascii() and name.isprintable()
        data = f"data of {name}" if name and is_plain else "data of an unknown kind"
        yield next(names, f"{data} (segment APP{marker - _FIRST_APP})")
    yield from _behind_jpeg(read_at)


def _behind_jpeg(read_at: ReadAt) -> Iterator[str]:
    """What is appended to the picture. Unknown data is taken for padding."""
    end = jpeg_end(read_at)
    behind = b"" if end is None else read_at(end + 2, _APPENDED_BYTES).lstrip(b"\0")
    if behind.startswith(b"\xff\xd8\xff"):
        yield _FURTHER_PICTURES
    # A film begins with the length of its first box. Samsung puts a name of its own before it.
    elif b"ftyp" in behind[:8] or b"MotionPhoto_Data" in behind:
        yield _FILM


def _of_png(read_at: ReadAt) -> Iterator[str]:
    for chunk in png_chunks(read_at):
        if chunk.kind == b"caBX":
            yield _CREDENTIALS
        elif chunk.kind not in _CHUNKS:
            yield _of_kind(chunk.kind)


def _of_webp(read_at: ReadAt) -> Iterator[str]:
    for chunk in webp_chunks(read_at):
        if chunk.kind == b"C2PA":
            yield _CREDENTIALS
        elif chunk.kind not in _WEBP_CHUNKS:
            yield _of_kind(chunk.kind)


def _of_kind(name: bytes) -> str:
    text = name.decode("latin-1").strip()
    return f"data of kind {text}" if text.isascii() and text.isalnum() else "data of no known kind"


def _of_tiff(read_at: ReadAt) -> Iterator[str]:
    try:
        reader = Reader(read_at)
        entries = reader.entries(reader.first)[0]
        numbers = [entry.number for entry in entries]
        described = next((entry for entry in entries if entry.number == DESCRIPTION), None)
        if described is not None:
            text = read_at(described.place, min(reader.size(described), LAYOUT_BYTES))
            if is_layout(text) and not text.startswith(b"{"):  # tifffile's has nothing else
                yield "a description of its layout (ImageJ, OME)"
    except ValueError:
        return
    yield from (_TIFF_TAGS[number] for number in numbers if number in _TIFF_TAGS)
    unknown = [
        number
        for number in numbers
        if number >= _FIRST_PRIVATE_TAG and number not in _KNOWN_TAGS and number not in _TIFF_TAGS
    ]
    if unknown:
        listed = ", ".join(map(str, unknown[:_MOST_WARNINGS]))
        more = ", ..." if len(unknown) > _MOST_WARNINGS else ""
        yield f"data in TIFF tags of its own ({listed}{more})"


def _of_heif(read_at: ReadAt) -> Iterator[str]:
    for box in boxes_at(read_at, b"meta", b"iprp", b"ipco"):
        if box.kind == b"auxC":
            name = read_at(box.start + 4, min(box.end - box.start, 200)).split(b"\0")[0]
            known = (what for part, what in _AUXILIARY.items() if part in name)
            if not name.endswith((b":alpha", b":auxid:1")):  # both mean transparency
                yield next(known, "an auxiliary picture")
    for box in boxes_at(read_at):
        if box.kind == b"uuid" and read_at(box.start, len(_C2PA_BOX)) == _C2PA_BOX:
            yield _CREDENTIALS
    if any(box.kind == b"grpl" for box in boxes_at(read_at, b"meta")) and _has_tone_map(read_at):
        yield "an HDR gain map"


def _of_jxl(read_at: ReadAt) -> Iterator[str]:
    for box in jxl_boxes(read_at):
        kind = read_at(box.start, 4) if box.kind == b"brob" else box.kind
        if kind in (b"jhgm", b"jumb"):
            yield "an HDR gain map" if kind == b"jhgm" else _CREDENTIALS
        elif kind not in _JXL_BOXES:
            yield _of_kind(kind)


def _has_tone_map(read_at: ReadAt) -> bool:
    items = next((box for box in boxes_at(read_at, b"meta") if box.kind == b"iinf"), None)
    return items is not None and b"tmap" in read_at(
        items.start, min(65536, items.end - items.start)
    )


_READERS: dict[str, Callable[[ReadAt], Iterable[str]]] = {
    "jpeg": _of_jpeg,
    "png": _of_png,
    "tiff": _of_tiff,
    "webp": _of_webp,
    "avif": _of_heif,
    "heic": _of_heif,
    "jxl": _of_jxl,
}
