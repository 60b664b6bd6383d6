"""The quantizer of a WebP's VP8 frame, which stands in the part with arithmetic coding.

Source: RFC 6386, sections 7.3 (the decoder), 9.1 to 9.6 and 19.2 (the order of the fields).
"""

from __future__ import annotations

# More than the fields before the quantizer can take.
HEADER_BYTES = 256
_FRAME_TAG_BYTES = 10
_START_CODE = b"\x9d\x01\x2a"
_SEGMENTS = 4
_EVEN = 128
_WORST = 127


class _BoolDecoder:
    """Booleans of even probability, which is what all fields before the quantizer have."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._value = int.from_bytes(data[:2].ljust(2, b"\0"))
        self._at = 2
        self._range = 255
        self._shifts = 0

    def bit(self) -> int:
        split = 1 + ((self._range - 1) * _EVEN >> 8)
        bit = self._value >= split << 8
        if bit:
            self._range -= split
            self._value -= split << 8
        else:
            self._range = split
        while self._range < _EVEN:
            self._value <<= 1
            self._range <<= 1
            self._shifts += 1
            if self._shifts == 8:
                self._shifts = 0
                if self._at < len(self._data):
                    self._value |= self._data[self._at]
                self._at += 1
        return int(bit)

    def number(self, bits: int) -> int:
        """An unsigned number, its highest bit first."""
        value = 0
        for _ in range(bits):
            value = 2 * value + self.bit()
        return value

    def skip_optional(self, count: int, bits: int) -> None:
        """Pass over `count` numbers, each behind a flag that says whether it is there."""
        for _ in range(count):
            if self.bit():
                self.number(bits)

    def signed(self, bits: int) -> int:
        """A number with its sign behind it, all behind a flag; 0 if it is not there."""
        if not self.bit():
            return 0
        value = self.number(bits)
        return -value if self.bit() else value


def quantizer(frame: bytes) -> float | None:
    """The quantizer of a key frame, 0 (best) to 127; None if it is no key frame.

    Up to four segments of a frame have quantizers of their own: the mean of them.
    """
    if len(frame) <= _FRAME_TAG_BYTES or frame[0] & 1 or frame[3:6] != _START_CODE:
        return None
    decoder = _BoolDecoder(frame[_FRAME_TAG_BYTES:])
    decoder.number(2)  # colour space, clamping
    is_absolute, segments = 0, [0]
    if decoder.bit():
        has_map, has_data = decoder.bit(), decoder.bit()
        if has_data:
            is_absolute = decoder.bit()
            segments = [decoder.signed(7) for _ in range(_SEGMENTS)]
            decoder.skip_optional(_SEGMENTS, 6 + 1)  # loop filters
        if has_map:
            decoder.skip_optional(_SEGMENTS - 1, 8)
    decoder.number(1 + 6 + 3)  # loop filter: type, level, sharpness
    if decoder.bit() and decoder.bit():  # changes of the filter's level
        decoder.skip_optional(2 * 4, 6 + 1)
    decoder.number(2)  # partitions
    base = 0 if is_absolute else decoder.number(7)
    found = [min(max(base + segment, 0), _WORST) for segment in segments]
    return sum(found) / len(found)
