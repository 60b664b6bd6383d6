"""The header of a JPEG XL, and the boxes of its container.

Source: ISO/IEC 18181-1 (codestream), annexes A and B; ISO/IEC 18181-2 (container).
"""

from __future__ import annotations

from dataclasses import dataclass

from upscaled_imaging.chunks import Chunk, ReadAt, boxes

# Real headers have a few dozen bytes. A profile, which may be long, follows the part read here.
_HEADER_BYTES = 4096
_BARE = b"\xff\x0a"
# Ratios of width to height, by their code.
_RATIOS = ((0, 0), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_FIRST_ON_ITS_SIDE = 5
# Kinds of extra channels.
ALPHA, _SPOT, BLACK, _COLOUR_FILTER = 0, 2, 4, 5
# The number of bits of a number, and its offset, by the two bits before it.
_SIZES = ((9, 1), (13, 1), (18, 1), (30, 1))
_PREVIEW_SIZES = ((6, 1), (8, 65), (10, 321), (12, 1345))
_PREVIEW_EIGHTHS = ((0, 16), (0, 32), (5, 1), (9, 33))
_BIT_COUNTS = ((0, 8), (0, 10), (0, 12), (6, 1))
_FLOAT_BIT_COUNTS = ((0, 32), (0, 16), (0, 24), (6, 1))
_CHANNEL_COUNTS = ((0, 0), (0, 1), (4, 2), (12, 1))
_ENUMS = ((0, 0), (0, 1), (4, 2), (6, 18))
_SHIFTS = ((0, 0), (0, 3), (0, 4), (3, 1))
_NAME_BYTES = ((0, 0), (4, 0), (5, 16), (10, 48))
_FILTERS = ((0, 1), (2, 0), (4, 3), (8, 19))


@dataclass(frozen=True)
class JxlHeader:
    """width, height: upright. extra: the kind of each channel behind the colours."""

    width: int
    height: int
    bits: int = 8
    is_float: bool = False
    is_animated: bool = False
    is_turned: bool = False
    is_premultiplied: bool = False
    extra: tuple[int, ...] = ()


def jxl_header(read_at: ReadAt) -> JxlHeader:
    """Raises `ValueError` if it is broken or cut off."""
    bits = _Bits(_codestream(read_at))
    height, width = _size(bits, _SIZES, _SIZES, small=True)
    if bits.flag():  # all other fields have their defaults
        return JxlHeader(width, height)
    orientation = 1
    if bits.flag():
        orientation = bits.number(3) + 1
        if bits.flag():  # an intended display size
            _size(bits, _SIZES, _SIZES, small=True)
        if bits.flag():
            _size(bits, _PREVIEW_EIGHTHS, _PREVIEW_SIZES, small=False)
        if bits.flag():
            return JxlHeader(width, height, is_animated=True)
    if orientation >= _FIRST_ON_ITS_SIDE:
        width, height = height, width
    depth, is_float = _depth(bits)
    bits.flag()  # whether 16-bit arithmetic is enough
    extra, is_premultiplied = [], False
    for _ in range(bits.choice(_CHANNEL_COUNTS)):
        kind, is_multiplied = _extra_channel(bits)
        extra.append(kind)
        is_premultiplied = is_premultiplied or is_multiplied
    return JxlHeader(
        width,
        height,
        depth,
        is_float,
        is_turned=orientation > 1,
        is_premultiplied=is_premultiplied,
        extra=tuple(extra),
    )


def jxl_boxes(read_at: ReadAt) -> list[Chunk]:
    """The boxes of the container; none if the file is a bare codestream."""
    return [] if read_at(0, 2) == _BARE else list(boxes(read_at))


def _codestream(read_at: ReadAt) -> bytes:
    """The first bytes, behind the signature."""
    data = b""
    for box in jxl_boxes(read_at) or [Chunk(b"jxlc", 0, _HEADER_BYTES)]:
        if box.kind in (b"jxlc", b"jxlp"):
            start = box.start + (4 if box.kind == b"jxlp" else 0)  # the part's number
            data += read_at(start, max(0, min(box.end - start, _HEADER_BYTES - len(data))))
    if not data.startswith(_BARE):
        raise ValueError("it holds no picture")
    return data[len(_BARE) :]


class _Bits:
    """A reader of numbers of any width in bits, lowest bit first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def number(self, count: int) -> int:
        if count > self._left:
            raise ValueError("its header is cut off")
        number = self._value & ((1 << count) - 1)
        self._value >>= count
        self._left -= count
        return number

    def flag(self) -> bool:
        return bool(self.number(1))

    def choice(self, ways: tuple[tuple[int, int], ...]) -> int:
        count, added = ways[self.number(2)]
        return self.number(count) + added


def _size(
    bits: _Bits,
    eighths: tuple[tuple[int, int], ...],
    sizes: tuple[tuple[int, int], ...],
    *,
    small: bool,
) -> tuple[int, int]:
    """Height and width. small: sizes are multiples of eight, stored in five bits."""
    in_eighths = bits.flag()

    def side() -> int:
        if not in_eighths:
            return bits.choice(sizes)
        return 8 * (bits.number(5) + 1 if small else bits.choice(eighths))

    height = side()
    ratio = bits.number(3)
    return height, height * _RATIOS[ratio][0] // _RATIOS[ratio][1] if ratio else side()


def _depth(bits: _Bits) -> tuple[int, bool]:
    if not bits.flag():
        return bits.choice(_BIT_COUNTS), False
    depth = bits.choice(_FLOAT_BIT_COUNTS)
    bits.number(4)
    return depth, True


def _extra_channel(bits: _Bits) -> tuple[int, bool]:
    """The channel's kind, and whether the colours are premultiplied by it."""
    if bits.flag():  # alpha of 8 bits
        return ALPHA, False
    kind = bits.choice(_ENUMS)
    _depth(bits)
    bits.choice(_SHIFTS)
    for _ in range(bits.choice(_NAME_BYTES)):
        bits.number(8)
    if kind == ALPHA:
        return kind, bits.flag()
    if kind == _SPOT:
        bits.number(64)
    elif kind == _COLOUR_FILTER:
        bits.choice(_FILTERS)
    return kind, False
