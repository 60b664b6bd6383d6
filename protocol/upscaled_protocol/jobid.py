"""The job_id of a line that cannot be parsed: cut off, broken, nested too deeply or too long.

A host that sent such a line waits for an answer with its id. The line's top level is read in a
single pass without recursion. The line comes in parts, because a line over the limit is never in
memory as a whole.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Any

from upscaled_protocol.lines import decode_line

# Brackets and fields that are read per line. A job has a few dozen of them outside its strings. A
# line that was made to cost time takes about 0.1 s with this limit.
MAX_STEPS = 50_000
# An id of 128 characters takes 1538 bytes if each is written as two escapes.
_MAX_ID_BYTES = 4096

_BLANK = re.compile(rb"[ \t\r\0]*+")
_IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_SCALAR = re.compile(rb"[\w.+-]++")
# The part of a nested value between two brackets, with its whole strings. A string is an atomic
# group, because Python before 3.11.5 also passes the part of one that is cut off (gh-106052).
_NESTED = re.compile(rb'(?:[^"\[\]{}]++|(?>"[^"\\]*+(?:\\.[^"\\]*+)*+"))*+', re.DOTALL)
_OPENED = re.compile(rb"[\[{]++")
_CLOSED = re.compile(rb"[\]}]++")


class _At(Enum):
    """What comes next in the top level."""

    START = auto()
    NAME = auto()
    COLON = auto()
    VALUE = auto()
    COMMA = auto()
    END = auto()


class JobIdReader:
    """Takes a line in parts. Then `value` is the `job_id` of its top level, None if it has none.

    If a name occurs twice, the last one counts. Reading ends at the first byte that is not JSON,
    because the bytes after it may mean anything.
    """

    def __init__(self) -> None:
        self.value: Any = None
        self._at = _At.START
        self.steps = 0
        self._depth = 1
        self._in_string = False
        self._is_escaped = False
        self._in_scalar = False
        self._is_id = False
        self._text = bytearray()

    def feed(self, part: bytes | bytearray) -> None:
        """Read the next part of the line, which may be cut anywhere."""
        position = 0
        while position < len(part) and self._at is not _At.END:
            if self._in_string:
                position = self._pass_string(part, position)
            elif self._depth > 1:
                position = self._pass_nested(part, position)
            else:
                position = self._pass_token(part, position)
            if self.steps > MAX_STEPS:
                self._at = _At.END

    def _pass_token(self, part: bytes | bytearray, position: int) -> int:
        self.steps += 1
        position = _end_of(_BLANK, part, position)
        token = part[position : position + 1]
        wanted = self._at
        if not token:
            return position
        if token == b'"' and wanted in (_At.NAME, _At.VALUE):
            self._in_string = True
            self._text.clear()
        elif token in (b"{", b"[") and wanted is _At.VALUE:
            self._depth = 2
            self._end_value(None)
        elif (token, wanted) == (b"{", _At.START):
            self._at = _At.NAME
        elif (token, wanted) == (b":", _At.COLON):
            self._at = _At.VALUE
        elif (token, wanted) == (b",", _At.COMMA):
            self._at = _At.NAME
        elif wanted is _At.VALUE and _SCALAR.match(part, position):
            self._text.clear()
            return self._pass_scalar(part, position)
        elif wanted is _At.COMMA and position == 0 and self._in_scalar:
            return self._pass_scalar(part, position)  # the rest of a number that was cut in two
        else:
            self._at = _At.END
        return position + 1

    def _pass_scalar(self, part: bytes | bytearray, position: int) -> int:
        end = _end_of(_SCALAR, part, position)
        self._keep(part, position, end)
        self._end_value(_decoded(self._text))
        self._in_scalar = end == len(part)
        return max(end, position + 1)

    def _pass_string(self, part: bytes | bytearray, position: int) -> int:
        start = position
        if self._is_escaped:
            self._is_escaped = False
            position += 1
        end = part.find(b'"', position)
        if end < 0 or part.find(b"\\", position, end) >= 0:
            end = _end_of(_IN_STRING, part, position)
        self._is_escaped = part[end : end + 1] == b"\\"  # as the last byte of this part
        if self._depth == 1:
            self._keep(part, start, end + self._is_escaped)
        if end < len(part) and not self._is_escaped:
            self._in_string = False
            self._end_string()
        return end + 1

    def _end_string(self) -> None:
        if self._depth > 1:
            return
        self._in_scalar = False
        is_whole = len(self._text) <= _MAX_ID_BYTES
        text = _decoded(b'"' + self._text + b'"') if is_whole else None
        if self._at is _At.NAME:
            self._is_id = text == "job_id"
            self._at = _At.COLON
        else:
            self._end_value(text)

    def _keep(self, part: bytes | bytearray, start: int, end: int) -> None:
        room = _MAX_ID_BYTES + 1 - len(self._text)
        self._text += part[start : min(end, start + room)]

    def _end_value(self, value: Any) -> None:
        if self._is_id:
            self.value = value
        self._at = _At.COMMA

    def _pass_nested(self, part: bytes | bytearray, position: int) -> int:
        position = _end_of(_NESTED, part, position)
        if part[position : position + 1] == b'"':  # a string that ends in a later part
            self._in_string = True
            return position + 1
        self.steps += 1
        opened = _end_of(_OPENED, part, position)
        closed = min(_end_of(_CLOSED, part, opened), opened + self._depth - 1 + opened - position)
        self._depth += (opened - position) - (closed - opened)
        return closed


def read_job_id(line: bytes) -> Any:
    """The job_id of a line that cannot be parsed, of any JSON type; None if there is none."""
    reader = JobIdReader()
    reader.feed(line)
    return reader.value


def _end_of(pattern: re.Pattern[bytes], part: bytes | bytearray, position: int) -> int:
    match = pattern.match(part, position)
    return match.end() if match else position


def _decoded(token: bytes | bytearray) -> Any:
    try:
        return decode_line(bytes(token))
    except ValueError:
        return None
