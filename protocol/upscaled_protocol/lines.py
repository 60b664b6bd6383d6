"""Bytes to lines, with a limit for the length of a line; JSON values to lines and back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

import orjson

DEFAULT_LINE_LIMIT_BYTES = 32 * 1024 * 1024

# Bytes per read. Linux pipes hold 64 KiB unless they are resized.
READ_SIZE_BYTES = 64 * 1024


# RFC 8259, section 8.2: the grammar allows half a surrogate pair if it is escaped. File names that
# are not UTF-8 are written in this way (Python's `surrogateescape`).
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def encode_line(fields: object, *, default: Callable[[Any], Any] | None = None) -> bytes:
    """One JSON value (of a message, an object) as one line of UTF-8, newline included.

    Half a surrogate pair is escaped, so that `decode_line` gives the same text. default: converts a
    value that JSON cannot represent; without it such a value raises `TypeError`.
    """
    try:
        return orjson.dumps(fields, default=default, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:
        text = json.dumps(fields, default=default, ensure_ascii=False, separators=(",", ":"))
        # `json` does not escape the half pair. Python's backslash form is also that of JSON.
        return text.encode(errors="backslashreplace") + b"\n"


def decode_line(line: bytes) -> Any:
    """The JSON value of one line, half surrogate pairs included. Raises `ValueError` with the
    reason."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        if not _SURROGATE_ESCAPE.search(line):
            raise
    # `json.loads` would accept bytes that are not UTF-8.
    text = line.decode()
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("depth limit exceeded") from None


def has_half_pair(text: str) -> bool:
    """True if the text holds half a surrogate pair, so that it is not Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class LineSplitter:
    """Cuts a byte stream into lines. `None` stands for a line over the limit.

    Blank lines are skipped, and a carriage return before the newline is removed. A line over the
    limit is discarded as it comes in, so that memory stays bounded; a subclass may read it in
    `_drop`.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LINE_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        # One buffer, not a list of chunks: a host may send a long line in parts of a few bytes.
        self._begun = bytearray()
        self._discarding = False

    def feed(self, chunk: bytes) -> list[bytes | None]:
        """The lines that `chunk` completes, without their newlines."""
        *ends, rest = chunk.split(b"\n")
        lines: list[bytes | None] = []
        for end in ends:
            line: bytes | None = end  # the usual case: the whole line came in one read
            if self._begun or self._discarding:
                line = self._finish(end)
            elif len(end) > self._limit_bytes:
                self._drop(end)
                self._end_dropped()
                line = None
            if line is None:
                lines.append(None)
            elif line and not line.isspace():
                lines.append(line.removesuffix(b"\r"))
        if rest:
            self._begin(rest)
        return lines

    def end(self) -> list[bytes | None]:
        """The last line, if the stream ended without a newline."""
        return self.feed(b"\n")

    def _begin(self, part: bytes) -> None:
        if self._discarding:
            self._drop(part)
        elif len(self._begun) + len(part) > self._limit_bytes:
            self._discarding = True
            self._drop(self._begun)
            self._drop(part)
            self._begun.clear()
        else:
            self._begun += part

    def _finish(self, part: bytes) -> bytes | None:
        self._begin(part)
        line = None if self._discarding else bytes(self._begun)
        if line is None:
            self._end_dropped()
        self._begun.clear()
        self._discarding = False
        return line

    def _drop(self, part: bytes | bytearray) -> None:
        """Called with each part of a line over the limit."""

    def _end_dropped(self) -> None:
        """Called at the newline of a line over the limit."""
