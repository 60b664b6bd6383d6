"""Lines of the daemon above the limit.

Such a line is dropped while it is read. But it may be the end of a job, whose call would then never
end. So its first bytes are kept: results and errors begin with their type and their job_id.
"""

from __future__ import annotations

import json
import re
from collections import deque
from typing import Any

from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES, LineSplitter

# The type, and an id of 128 characters with two escapes each, which takes 1538 bytes.
_HEAD_BYTES = 4096

_STRING = r'"(?:[^"\\]|\\.)*+"'
_HEAD = re.compile(
    rf'\s*\{{\s*"type"\s*:\s*({_STRING})(?:\s*,\s*"job_id"\s*:\s*(null|{_STRING}))?', re.DOTALL
)

_SENTENCES = {
    "result": "the job is done, but its result was dropped, because the line has more than "
    "{limit} MiB: give output_path instead of output_base64",
    "error": "the job failed, but its error was dropped, because the line has more than "
    "{limit} MiB; the daemon's log may say more",
}


class UnreadableLineError(Exception):
    """Raised when the first bytes of a dropped line do not show whose end it was, if any."""


class LongLineSplitter(LineSplitter):
    """Keeps the beginning of each line above the limit. heads: in order."""

    def __init__(self) -> None:
        super().__init__(DEFAULT_LINE_LIMIT_BYTES)
        self.heads: deque[bytes] = deque()
        self._head = b""

    def _drop(self, part: bytes | bytearray) -> None:
        self._head += part[: _HEAD_BYTES - len(self._head)]

    def _end_dropped(self) -> None:
        self.heads.append(self._head)
        self._head = b""


def lost_end(head: bytes) -> dict[str, Any] | None:
    """The error in place of a dropped line; None if the line ended no job.

    Raises `UnreadableLineError` if the head does not show that.
    """
    text = head.decode(errors="replace").lstrip()
    if text and not text.startswith("{"):
        return None  # no message: some library's print
    try:
        found = _HEAD.match(text)
        kind = json.loads(found[1]) if found else None
        job_id = json.loads(found[2]) if found and found[2] else ""
    except ValueError:
        kind, job_id = None, ""
    if kind is not None and (kind not in _SENTENCES or job_id is None):
        return None
    limit_mib = DEFAULT_LINE_LIMIT_BYTES // 2**20
    if not kind or not job_id:
        raise UnreadableLineError(
            f"it wrote a line of more than {limit_mib} MiB that "
            "does not begin with type and job_id, so the job that it ended is not known"
        )
    return {
        "type": "error",
        "job_id": job_id,
        "error": _SENTENCES[kind].format(limit=limit_mib),
        "code": "line_too_long",
        "retryable": False,
    }
