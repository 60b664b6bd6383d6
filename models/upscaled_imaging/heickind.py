"""Which HEIC files are read. A file must not cost the decoder much more than its picture does.

libheif has limits of its own, which apply too.
Source: ISO/IEC 23008-12 (HEIF), 6.6.2 (derived pictures).
"""

from __future__ import annotations

from upscaled_imaging import formats
from upscaled_imaging.chunks import ReadAt
from upscaled_imaging.heifitem import (
    Reference,
    item_bytes,
    item_kinds,
    item_pixels,
    main_item,
    references,
)
from upscaled_protocol.errors import ErrorCode, JobError

_DECODED = b"hvc1"
# Pictures that are derived from others: turned, side by side, on top of each other.
_DERIVED = (b"iden", b"grid", b"iovl")
_CODECS = {
    b"av01": "AV1",
    b"avc1": "H.264",
    b"vvc1": "H.266",
    b"j2k1": "JPEG 2000",
    b"jpeg": "JPEG",
    b"unci": "uncompressed",
    b"mski": "mask",
}
_METADATA = (b"Exif", b"mime")
# The decoder copies each block once per picture that it describes. Cameras write some 100 KiB.
_MOST_METADATA_BYTES = 64 * 1024 * 1024
# Tiles exceed the edges by less than one tile, and transparency doubles the pixels.
_MOST_PART_PIXELS, _MOST_PARTS_TIMES = 64_000_000, 4
_DEEPEST = 8


def check_heic(read_at: ReadAt) -> None:
    """Refuse an animation, other codecs than HEVC, and tables that are broken or absurd.

    Raises `JobError` (unsupported_format, input_unreadable).
    """
    if formats.is_film(read_at):
        raise formats.animated()
    try:
        kinds, related, main = item_kinds(read_at), references(read_at), main_item(read_at)
        _check_metadata(kinds, related, item_bytes(read_at))
        if main not in kinds:
            raise ValueError("its main picture is missing")
        sizes = item_pixels(read_at)
        parts = _Parts(kinds, related, sizes)
        alpha = [
            reference.item
            for reference in related
            if reference.kind == b"auxl" and main in reference.others
        ]
        pixels = sum(parts.pixels(item) for item in (main, *alpha))
    except ValueError as error:
        raise formats.broken(str(error)) from None
    if pixels > max(_MOST_PART_PIXELS, _MOST_PARTS_TIMES * sizes.get(main, 0)):
        raise formats.broken(f"its parts have {pixels / 1e6:.0f} megapixels, more than its picture")
    others = parts.codecs - {_DECODED}
    if others:
        names = ", ".join(sorted(_CODECS.get(codec, "an unknown one") for codec in others))
        raise JobError(
            ErrorCode.UNSUPPORTED_FORMAT,
            f"the input is a HEIF of another coding than HEVC ({names}), which is not read here: "
            "convert it to PNG, JPEG, WebP, TIFF or AVIF",
        )


class _Parts:
    """The coded pictures that an item is made of."""

    def __init__(
        self, kinds: dict[int, bytes], related: list[Reference], sizes: dict[int, int]
    ) -> None:
        self._kinds, self._sizes = kinds, sizes
        self._parts = {
            reference.item: reference.others for reference in related if reference.kind == b"dimg"
        }
        self._pixels: dict[int, int] = {}
        self.codecs: set[bytes] = set()

    def pixels(self, item: int, depth: int = 0) -> int:
        """The pixels that are decoded for the item. Raises `ValueError` for too many parts."""
        if depth > _DEEPEST:
            raise ValueError("its parts are nested too deep")
        if item not in self._pixels:
            kind = self._kinds.get(item, b"")
            if kind in _DERIVED:
                parts = self._parts.get(item, ())
                self._pixels[item] = sum(self.pixels(part, depth + 1) for part in parts)
            else:
                self.codecs.add(kind)
                self._pixels[item] = self._sizes.get(item, 0)
        return self._pixels[item]


def _check_metadata(
    kinds: dict[int, bytes], related: list[Reference], lengths: dict[int, int]
) -> None:
    copied = sum(
        lengths.get(reference.item, 0) * len(reference.others)
        for reference in related
        if reference.kind == b"cdsc" and kinds.get(reference.item) in _METADATA
    )
    if copied > _MOST_METADATA_BYTES:
        raise ValueError(f"its metadata has {copied / 2**20:.0f} MiB")
