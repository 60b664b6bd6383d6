"""The metadata that an output format can store. The rest is left out with a warning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from upscaled_imaging.exif import DESCRIPTION, descriptive_tags, from_texts
from upscaled_imaging.jpeg import (
    MAX_COMMENT_BYTES,
    MAX_EXIF_BYTES,
    MAX_ICC_BYTES,
    MAX_IPTC_BYTES,
    MAX_XMP_BYTES,
)
from upscaled_imaging.metadata import COMMENT, Metadata, Text
from upscaled_protocol.choices import OutputFormat

_HAVE_IPTC = ("png", "tiff", "jpeg")
# Texts that EXIF has a tag for: the first text of a tag gets it.
_EXIF_TAGS = {
    "Title": DESCRIPTION,
    "Description": DESCRIPTION,
    COMMENT: DESCRIPTION,
    "Author": 315,
    "Copyright": 33432,
    "Software": 305,
}
_NAMED = 5
# ImageMagick's copies of other metadata: the file's dates, the profile's name, EXIF.
_COPIES, _EXIF_COPIES = ("date:", "icc:"), ("exif:", "tiff:")


def carried(metadata: Metadata, kind: OutputFormat, warn: Callable[[str], None]) -> Metadata:
    """The metadata, moved to the places that the format has for it."""
    copies = _COPIES if metadata.exif is None else _COPIES + _EXIF_COPIES
    texts = tuple(text for text in metadata.texts if not text.keyword.startswith(copies))
    metadata = replace(metadata, texts=texts)
    if kind == "png":
        return metadata
    metadata = _with_texts(metadata, kind, warn)
    if metadata.iptc is not None and kind not in _HAVE_IPTC:
        warn(f"{kind} has no place for the input's captions (IPTC): they were left out")
        metadata = replace(metadata, iptc=None)
    return _fitting(metadata, warn) if kind == "jpeg" else metadata


def _with_texts(metadata: Metadata, kind: OutputFormat, warn: Callable[[str], None]) -> Metadata:
    """Texts become EXIF if the picture has none, and a JPEG's comments. What EXIF says too is kept
    there."""
    kept: list[Text] = []
    tags: dict[int, str] = {}
    lost: list[str] = []
    tags_there = descriptive_tags(metadata.exif or b"")
    said = {tag.data for tag in tags_there if isinstance(tag.data, bytes)}
    for text in metadata.texts:
        if text.text.encode() + b"\0" in said:
            continue
        number = _EXIF_TAGS.get(text.keyword)
        if kind == "jpeg" and text.keyword == COMMENT and _fits_jpeg(text):
            kept.append(text)
        elif metadata.exif is None and number is not None and number not in tags:
            tags[number] = text.text
        else:
            lost.append(text.keyword)
    if lost:
        names = list(dict.fromkeys(lost))
        listed = ", ".join(name[:80] for name in names[:_NAMED])
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        warn(f"{kind} has no place for texts of the input ({listed}{more}): they were left out")
    exif = from_texts(tags) if tags else metadata.exif
    return replace(metadata, exif=exif, texts=tuple(kept))


def _fits_jpeg(text: Text) -> bool:
    return len(text.text.encode()) <= MAX_COMMENT_BYTES


def _fitting(metadata: Metadata, warn: Callable[[str], None]) -> Metadata:
    """The metadata that fits into a JPEG's segments of 64 KiB; a profile may take 255 of them."""
    if metadata.exif is not None and len(metadata.exif) > MAX_EXIF_BYTES:
        warn("the EXIF block is too long for JPEG: it was left out")
        metadata = replace(metadata, exif=None)
    if metadata.xmp is not None and len(metadata.xmp) > MAX_XMP_BYTES:
        warn("the XMP packet is too long for JPEG: it was left out")
        metadata = replace(metadata, xmp=None)
    if metadata.icc is not None and len(metadata.icc) > MAX_ICC_BYTES:
        warn("the colour profile is too long for JPEG: it was left out")
        metadata = replace(metadata, icc=None)
    if metadata.iptc is not None and len(metadata.iptc) > MAX_IPTC_BYTES:
        warn("the captions (IPTC) are too long for JPEG: they were left out")
        metadata = replace(metadata, iptc=None)
    return metadata
