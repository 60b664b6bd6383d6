"""The host's two streams: its lines, and the lines for it."""

from __future__ import annotations

import os

from upscaled_protocol.errors import JobError
from upscaled_protocol.hostlines import HostLines
from upscaled_protocol.lines import READ_SIZE_BYTES
from upscaled_protocol.outbox import Outbox
from upscaled_protocol.stdio import NonBlockingWriter, Wire

# While more than this waits for the host, its own lines are not read: memory stays bounded.
UNREAD_LIMIT_BYTES = 16 * 1024 * 1024


class HostWire:
    """The host's stdin and stdout, driven by the supervisor's loop."""

    def __init__(self, wire: Wire, line_limit_bytes: int) -> None:
        self.read_fd = wire.read_fd
        # Polled only to see that the reader is gone; the outbox polls the other one for writing.
        self.watch_fd = os.dup(wire.write_fd)
        self.outbox = Outbox(NonBlockingWriter(wire.write_fd))
        self._lines = HostLines(line_limit_bytes)

    def read(self) -> tuple[list[bytes | JobError], bool]:
        """The lines that have arrived, an error for each that is no line, and True at the end of
        the input. Raises `OSError` if the stream is broken."""
        chunk = os.read(self.read_fd, READ_SIZE_BYTES)
        if chunk:
            return self._lines.feed(chunk), False
        return self._lines.end(), True

    @property
    def is_behind(self) -> bool:
        """True if the host has so many lines to read that its own should wait."""
        return self.outbox.waiting_bytes > UNREAD_LIMIT_BYTES
