"""The metadata of a file, read from the places that its format has for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pyvips

from upscaled_imaging import exif, photoshop
from upscaled_imaging.chunks import ReadAt, jpeg_segments
from upscaled_imaging.context import PictureContext
from upscaled_imaging.giftext import gif_texts
from upscaled_imaging.leftout import warn_of_left_out
from upscaled_imaging.metadata import COMMENT, Metadata, Text
from upscaled_imaging.pngtext import png_texts
from upscaled_imaging.resolution import dots_per_inch
from upscaled_imaging.tags import Reader

# Much longer than any real packet. A forged one must not block the daemon.
_LONGEST_XMP_BYTES = 16 * 1024 * 1024
_COMMENT_MARKER, _PHOTOSHOP_MARKER = b"\xfe", b"\xed"
_PHOTOSHOP_NAME = b"Photoshop 3.0\0"
_IPTC_TAG, _PHOTOSHOP_TAG = 33723, 34377
_LONGEST_TAG_BYTES = 16 * 1024 * 1024


class _Found(NamedTuple):
    """photoshop: image resources. iptc: records outside of image resources."""

    exif: bytes | None
    xmp: bytes | None
    photoshop: bytes | None = None
    iptc: bytes | None = None
    texts: tuple[Text, ...] = ()


def gather(kind: str, read_at: ReadAt, image: pyvips.Image, context: PictureContext) -> Metadata:
    """All metadata but the profile. Warnings name what no output format can keep."""
    found = _found(kind, read_at, image, context)
    xmp = found.xmp
    if xmp is not None and len(xmp) > _LONGEST_XMP_BYTES:
        context.warn(f"the input's XMP has {len(xmp) / 2**20:.0f} MiB: it was left out")
        xmp = None
    warn_of_left_out(kind, read_at, xmp, context.warn)
    resources = found.photoshop or b""
    if photoshop.is_more(resources):
        context.warn(
            "the input has Photoshop's image resources, such as paths and guides: left out"
        )
    dpi = dots_per_inch(kind, read_at, found.exif, context.warn, resources)
    iptc = found.iptc or photoshop.iptc(resources)
    return Metadata(exif=found.exif, xmp=xmp, dpi=dpi, iptc=iptc, texts=found.texts)


def _found(kind: str, read_at: ReadAt, image: pyvips.Image, context: PictureContext) -> _Found:
    if kind == "png":
        found = png_texts(read_at, context.warn)
        return _Found(found.exif, found.xmp, found.photoshop, texts=found.texts)
    block, xmp = _blob(image, "exif-data"), _blob(image, "xmp-data")
    if kind == "tiff":
        block = exif.from_tiff(read_at, context.check_cancelled)
        return _Found(block, xmp, *_of_tiff(read_at))
    if block is not None:
        block = block.removeprefix(b"Exif\0\0")
    if kind == "jpeg":
        comments = tuple(
            _comment(read_at(segment.start, segment.end - segment.start))
            for segment in jpeg_segments(read_at)
            if segment.kind == _COMMENT_MARKER
        )
        return _Found(block, xmp, b"".join(_photoshop_parts(read_at)), texts=comments)
    if kind == "gif":
        gif = gif_texts(read_at)
        texts = tuple(_comment(comment) for comment in gif.comments)
        return _Found(block, xmp or gif.xmp, texts=texts)
    if kind == "tga":
        return _Found(None, None, texts=tuple(_of_tga(image)))
    return _Found(block, xmp, iptc=_blob(image, "iptc-data") if kind == "heic" else None)


def _photoshop_parts(read_at: ReadAt) -> Iterator[bytes]:
    """The parts of a block that is too long for one segment."""
    for segment in jpeg_segments(read_at):
        if segment.kind == _PHOTOSHOP_MARKER:
            data = read_at(segment.start, segment.end - segment.start)
            if data.startswith(_PHOTOSHOP_NAME):
                yield data.removeprefix(_PHOTOSHOP_NAME)


def _of_tiff(read_at: ReadAt) -> tuple[bytes | None, bytes | None]:
    """Photoshop's resources and IPTC records, unchanged."""
    found: dict[int, bytes] = {}
    try:
        reader = Reader(read_at)
        for entry in reader.entries(reader.first)[0]:
            size = reader.size(entry)
            if entry.number in (_IPTC_TAG, _PHOTOSHOP_TAG) and size <= _LONGEST_TAG_BYTES:
                found[entry.number] = read_at(entry.place, size)
    except ValueError:
        pass
    return found.get(_PHOTOSHOP_TAG), found.get(_IPTC_TAG)


def _of_tga(image: pyvips.Image) -> Iterator[Text]:
    author, comments = _blob(image, "tga-author"), _blob(image, "tga-comments")
    if author is not None:
        yield Text("Author", author.decode("latin-1"))
    if comments is not None:
        yield _comment(comments)


def _comment(data: bytes) -> Text:
    data = data.rstrip(b"\0")
    try:
        return Text(COMMENT, data.decode())
    except UnicodeDecodeError:
        return Text(COMMENT, data.decode("latin-1"))


def _blob(image: pyvips.Image, name: str) -> bytes | None:
    return bytes(image.get(name)) if image.get_typeof(name) else None
