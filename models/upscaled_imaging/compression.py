"""How much a lossy file was compressed, by its header alone: JPEG's tables, WebP's quantizer.

Source: ITU-T T.81, annexes B.2.2, B.2.4.1 and K.1; RFC 6386, sections 7, 9.2 to 9.6 and 19.2;
RFC 9649. Encoders do not store the quality that their user chose: it is computed from what they
made of it.
"""

from __future__ import annotations

from typing import NamedTuple

from upscaled_imaging.chunks import ReadAt, jpeg_segments, webp_chunks
from upscaled_imaging.vp8header import HEADER_BYTES, quantizer

# Annex K.1's luminance table, in rows. Most encoders scale it by the quality, as libjpeg does.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_TABLES = 0xDB
# Baseline, extended and progressive frames, with Huffman or arithmetic coding.
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
_SUBSAMPLING = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (1, 2): "4:4:0",
    (4, 1): "4:1:1",
}
_VP8 = b"VP8 "


class Compression(NamedTuple):
    """A lossy file's format, its quality on the scale of the usual encoders (1 to 100), and the
    resolution of its colours, such as 4:2:0; None for gray and for rare kinds."""

    format: str
    quality: int
    subsampling: str | None

    def __str__(self) -> str:
        colours = f" ({self.subsampling})" if self.subsampling else ""
        return f"a {self.format} of about quality {self.quality}{colours}"


def find_compression(kind: str, read_at: ReadAt) -> Compression | None:
    """What the header of a JPEG or of a lossy WebP says; None for other kinds and broken files."""
    if kind == "jpeg":
        return _jpeg(read_at)
    if kind == "webp":
        return _webp(read_at)
    return None


def jpeg_quality(scale: float) -> int:
    """The quality whose table is annex K's times `scale`, as libjpeg computes tables."""
    quality = 100 - 50 * scale if scale <= 1 else 50 / scale
    return min(max(round(quality), 1), 100)


def _jpeg(read_at: ReadAt) -> Compression | None:
    tables: dict[int, int] = {}
    for segment in jpeg_segments(read_at):
        data = read_at(segment.start, segment.end - segment.start)
        if segment.kind[0] == _TABLES:
            tables.update(_table_sums(data))
        elif segment.kind[0] in _FRAMES:
            components = [data[at : at + 3] for at in range(6, len(data) - 2, 3)]
            if not components or components[0][2] not in tables:
                return None
            scale = tables[components[0][2]] / sum(map(sum, LUMINANCE))
            return Compression("JPEG", jpeg_quality(scale), _sampling(components))
    return None


def _table_sums(data: bytes) -> dict[int, int]:
    """The sum of each quantization table of a segment, by the table's number."""
    sums: dict[int, int] = {}
    at = 0
    while at < len(data):
        width = 2 if data[at] >> 4 else 1
        values = data[at + 1 : at + 1 + 64 * width]
        if len(values) < 64 * width:
            break
        if width == 2:
            sums[data[at] & 15] = 256 * sum(values[::2]) + sum(values[1::2])
        else:
            sums[data[at] & 15] = sum(values)
        at += 1 + 64 * width
    return sums


def _sampling(components: list[bytes]) -> str | None:
    if len(components) != 3:
        return None
    (across, down), *others = [(part[1] >> 4, part[1] & 15) for part in components]
    if any(not factor > 0 for pair in others for factor in pair) or others[0] != others[1]:
        return None
    return _SUBSAMPLING.get((across // others[0][0], down // others[0][1]))


def _webp(read_at: ReadAt) -> Compression | None:
    pixels = next((chunk for chunk in webp_chunks(read_at) if chunk.kind == _VP8), None)
    if pixels is None:
        return None
    index = quantizer(read_at(pixels.start, min(pixels.end - pixels.start, HEADER_BYTES)))
    return None if index is None else Compression("WebP", _webp_quality(index), "4:2:0")


def _webp_quality(index: float) -> int:
    """libwebp's quality for a quantizer of 0 to 127: the inverse of its curve, a cube root of a
    line with a bend at 75."""
    share = (1 - index / 127) ** 3
    quality = 1.5 * share if share < 0.5 else (share + 1) / 2
    return min(max(round(100 * quality), 1), 100)
