"""Cuts the host's input into lines. Input that cannot be a message gives the error to answer.

A byte order mark before a line is skipped: editors and PowerShell write one, and joined files have
them in the middle. Input in UTF-16 or UTF-32 gives one error, not one per line.
"""

from __future__ import annotations

import codecs

from upscaled_protocol.envelope import attribute
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.jobid import JobIdReader
from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES, LineSplitter

_OBJECT_BEGINS = ord("{")
# The longer marks first: those of UTF-32 begin as those of UTF-16 do.
_WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
# An empty line of UTF-16, as it looks between two bytes of a newline.
_WIDE_BLANKS = (b"\0", b"\r\0", b"\0\r\0")
# Enough to recognise an encoding.
_HEAD_BYTES = 16


class HostLines:
    """Takes what a host writes. Gives its lines, and a `JobError` for each that is no line."""

    def __init__(self, limit_bytes: int = DEFAULT_LINE_LIMIT_BYTES) -> None:
        self._lines = _LinesWithIds(limit_bytes)
        self._is_wide = False
        # True once the input was UTF-16 or UTF-32, so that jobs in it were not read.
        self.has_wide_text = False

    def feed(self, chunk: bytes) -> list[bytes | JobError]:
        """The lines that `chunk` completes, without their newlines."""
        found: list[bytes | JobError] = []
        for line in self._lines.feed(chunk):
            one = self._dropped() if line is None else self._examined(line)
            if one is not None:
                found.append(one)
        return found

    def end(self) -> list[bytes | JobError]:
        """The last line, if the stream ended without a newline."""
        return self.feed(b"\n")

    def _dropped(self) -> JobError | None:
        head, job_id = self._lines.dropped.pop(0)
        error = self._examined(head)
        if isinstance(error, JobError):
            return error
        if self._is_wide:
            return None
        text = "the line passes the limit and was dropped"
        return attribute(JobError(ErrorCode.LINE_TOO_LONG, text), job_id)

    def _examined(self, line: bytes) -> bytes | JobError | None:
        """The line without its marks, or the error that answers it; None if it is skipped."""
        if line[0] == _OBJECT_BEGINS and line[1:2] != b"\0" and not self._is_wide:
            return line  # the usual case
        while line.startswith(codecs.BOM_UTF8):
            line = line.removeprefix(codecs.BOM_UTF8)
        if self._is_wide:
            if b"\0" in line or not line.lstrip().startswith(b"{"):
                return None
            self._is_wide = False  # joined files, of which this one is UTF-8
        encoding = _wide_encoding(line)
        if encoding is None:
            return line if line.strip() else None
        self._is_wide = self.has_wide_text = True
        return JobError(
            ErrorCode.INVALID_JSON,
            f"the input is {encoding} and a job line is UTF-8: write it as UTF-8, in PowerShell "
            "with `-Encoding utf8`; no line of it was read",
        )


class _LinesWithIds(LineSplitter):
    """Keeps the first bytes and the job_id of each line over the limit: `dropped`, in order."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.dropped: list[tuple[bytes, object]] = []
        self._head = b""
        self._reader = JobIdReader()

    def _drop(self, part: bytes | bytearray) -> None:
        self._head += part[: _HEAD_BYTES - len(self._head)]
        self._reader.feed(part)

    def _end_dropped(self) -> None:
        self.dropped.append((self._head, self._reader.value))
        self._head = b""
        self._reader = JobIdReader()


def _wide_encoding(line: bytes) -> str | None:
    """UTF-16 or UTF-32, if the line begins with its mark, or with NUL bytes as JSON in it has."""
    for mark, name in _WIDE_MARKS:
        if line.startswith(mark):
            rest = line.removeprefix(mark)[:2]
            # Bytes that only look like a mark are one bad line; the rest is read.
            return name if not rest or b"\0" in rest else None
    if line in _WIDE_BLANKS:
        return "UTF-16"
    head = line[:4]
    if len(head) >= 4 and head.strip(b"\0")[:1] in (b"{", b" ", b"\t", b"\r"):
        if head[1] == head[2] == head[3] == 0 or head[0] == head[1] == head[2] == 0:
            return "UTF-32"
        if (head[1] == head[3] == 0 and head[2]) or (head[0] == head[2] == 0 and head[3]):
            return "UTF-16"
    return None
