"""JSON log lines on stderr: one object per line. Logging never blocks and never fails.

If the reader of stderr stops reading, or the disk is full, lines are dropped and counted; the count
is logged with the next line that can be written.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import Any, Literal

from upscaled_protocol.lines import encode_line
from upscaled_protocol.stdio import NonBlockingWriter

Level = Literal["debug", "info", "warning", "error"]

# Errors after which there may be room again.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Logger:
    """Writes to one descriptor. `fields` are in every line, such as `component`."""

    def __init__(self, fd: int = 2, **fields: Any) -> None:
        self._writer: NonBlockingWriter | None
        try:
            self._writer = NonBlockingWriter(fd)
        except OSError:  # stderr is closed
            self._writer = None
        self._fields = fields
        self._rest = b""
        self._dropped = 0
        self._lock = threading.Lock()

    def log(self, level: Level, event: str, **fields: Any) -> None:
        """One line: `ts` (seconds since 1970), `level`, `event`, then the fields."""
        self.write(self._encode(level, event, fields))

    def write(self, line: bytes) -> None:
        """Write a finished line, such as one that a worker printed; newline included."""
        with self._lock:
            if not self._finish_last_line():
                self._dropped += 1
                return
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                line = self._encode("warning", "log_lines_dropped", {"count": dropped}) + line
            self._rest = line
            self._finish_last_line()

    def _encode(self, level: Level, event: str, fields: dict[str, Any]) -> bytes:
        line = {"ts": round(time.time(), 3), "level": level, "event": event}
        line.update(self._fields)
        line.update((name, value) for name, value in fields.items() if value is not None)
        line.setdefault("pid", os.getpid())
        return encode_line(line, default=str)

    def _finish_last_line(self) -> bool:
        while self._rest and self._writer is not None:
            try:
                taken = self._writer.write(self._rest)
            except OSError as error:
                if error.errno in _FULL:
                    return False
                self._writer = None
                break
            if not taken:
                return False
            self._rest = self._rest[taken:]
        self._rest = b""
        return True
