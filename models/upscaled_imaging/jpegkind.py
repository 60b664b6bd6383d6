"""Which JPEG files are read. Scanners and hospitals use codings that few decoders know.

Source: ITU-T T.81, annex B.1.1.3 (frame headers); ITU-T T.87 (JPEG-LS); libjpeg-turbo 3.
"""

from __future__ import annotations

from upscaled_imaging.chunks import ReadAt, jpeg_end, jpeg_segments
from upscaled_imaging.formats import broken
from upscaled_protocol.errors import ErrorCode, JobError

_READ_BITS = 8
_JPEG_LS = 0xF7
# Frame headers: C0 to CF except tables (C4, CC) and an extension (C8).
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HIERARCHICAL = frozenset({0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF})
_LOSSLESS = frozenset({0xC3, 0xCB})
_LOSSLESS_ARITHMETIC = 0xCB


def check_jpeg(read_at: ReadAt) -> None:
    """Refuse a file whose coding libjpeg does not know, or whose end is missing.

    Raises `JobError`: unsupported_format, input_unreadable. Another broken file passes, because
    libjpeg's error says more about it.
    """
    _check_coding(read_at)
    # A download that stopped, or a card that failed, may leave zeros in place of the rest. To
    # libjpeg they are pixels: the picture would be gray from there on.
    if jpeg_end(read_at) is None:
        raise broken("its end is missing")


def _check_coding(read_at: ReadAt) -> None:
    for segment in jpeg_segments(read_at):
        frame = segment.kind[0]
        if frame == _JPEG_LS:
            raise _unsupported("is a JPEG-LS")
        if frame not in _FRAMES:
            continue
        bits = read_at(segment.start, 1)
        if bits and bits[0] > _READ_BITS:
            coding = "lossless " if frame in _LOSSLESS else ""
            raise _unsupported(f"is a {coding}JPEG of {bits[0]} bits per channel")
        if frame == _LOSSLESS_ARITHMETIC:
            raise _unsupported("is a lossless JPEG with arithmetic coding")
        if frame in _HIERARCHICAL:
            raise _unsupported("is a hierarchical JPEG")
        return


def _unsupported(what: str) -> JobError:
    return JobError(
        ErrorCode.UNSUPPORTED_FORMAT,
        f"the input {what}, which is not read here: convert it to PNG or TIFF",
    )
