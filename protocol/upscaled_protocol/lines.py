"""Bytes to lines, with a limit on the memory that one line may take; and objects to lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import orjson

DEFAULT_LINE_LIMIT_BYTES = 32 * 1024 * 1024

# How much one read asks of a pipe: Linux pipes hold 64 KiB unless resized.
READ_SIZE_BYTES = 64 * 1024


def encode_line(fields: dict[str, Any], *, default: Callable[[Any], Any] | None = None) -> bytes:
    """One JSON object as one line of UTF-8, newline included.

    Never fails for want of Unicode: half a surrogate pair, as in a file name that is not UTF-8,
    becomes a question mark. `default` gives a form to what JSON has none for; without it such a
    value raises `TypeError`.
    """
    try:
        return orjson.dumps(fields, default=default, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:
        text = json.dumps(fields, default=default, ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="replace") + b"\n"


class LineSplitter:
    """Cuts a byte stream into lines. `None` stands for a line that passed the limit.

    Blank lines are passed over and a carriage return before the newline is dropped. A line over
    the limit is discarded as it comes in, so that memory stays bounded, and is reported once, at
    its end.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LINE_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        # One buffer, not a list of chunks: a host may send a long line a few bytes at a time.
        self._begun = bytearray()
        self._discarding = False

    def feed(self, chunk: bytes) -> list[bytes | None]:
        """The lines that `chunk` completes, without their ends."""
        *ends, rest = chunk.split(b"\n")
        lines: list[bytes | None] = []
        for end in ends:
            line: bytes | None = end  # the usual case: a whole line in one read, not copied
            if self._begun or self._discarding:
                line = self._finish(end)
            elif len(end) > self._limit_bytes:
                line = None
            if line is None:
                lines.append(None)
            elif line and not line.isspace():
                lines.append(line.removesuffix(b"\r"))
        if rest:
            self._begin(rest)
        return lines

    def end(self) -> list[bytes | None]:
        """The last line, where the stream ended without a newline."""
        return self.feed(b"\n")

    def _begin(self, part: bytes) -> None:
        if len(self._begun) + len(part) > self._limit_bytes:
            self._discarding = True
            self._begun.clear()
        elif not self._discarding:
            self._begun += part

    def _finish(self, part: bytes) -> bytes | None:
        self._begin(part)
        line = None if self._discarding else bytes(self._begun)
        self._begun.clear()
        self._discarding = False
        return line
