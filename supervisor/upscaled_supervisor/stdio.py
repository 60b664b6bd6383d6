"""The host's end of the wire: lines in, lines out, and when the host is gone."""

from __future__ import annotations

import os

from upscaled_protocol.errors import JobError
from upscaled_protocol.hostlines import HostLines
from upscaled_protocol.lines import READ_SIZE_BYTES
from upscaled_protocol.outbox import Outbox
from upscaled_protocol.stdio import NonBlockingWriter, Wire

# A host that does not read its results gets no more of its lines read: memory stays bounded.
UNREAD_LIMIT_BYTES = 16 * 1024 * 1024


class HostWire:
    """Both directions of the host's stdio, driven by the supervisor's loop."""

    def __init__(self, wire: Wire, line_limit_bytes: int) -> None:
        self.read_fd = wire.read_fd
        # Watched for the reader's end alone; the outbox polls the other for writing.
        self.watch_fd = os.dup(wire.write_fd)
        self.outbox = Outbox(NonBlockingWriter(wire.write_fd))
        self._lines = HostLines(line_limit_bytes)

    def read(self) -> tuple[list[bytes | JobError], bool]:
        """The lines that came in, an error for each that is none, and whether the input has
        ended."""
        chunk = os.read(self.read_fd, READ_SIZE_BYTES)
        if chunk:
            return self._lines.feed(chunk), False
        return self._lines.end(), True

    @property
    def unread(self) -> bool:
        """Whether the host is so far behind with reading that it should not be read either."""
        return self.outbox.waiting_bytes > UNREAD_LIMIT_BYTES
