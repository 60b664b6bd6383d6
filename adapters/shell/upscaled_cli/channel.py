"""The protocol over two byte streams, for a host that blocks. Knows no process.

    host ── send ──> one JSON line a message ──> daemon
    host <─ receive ── reader thread ────────── daemon

The thread reads always, so the daemon never waits for a host that is still sending.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import threading
from typing import IO, Any

from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES, READ_SIZE_BYTES, LineSplitter

Message = dict[str, Any]


def line_of(message: Message) -> bytes:
    """The message as the protocol has it. Raises `ValueError`, with a sentence, where it has no
    line for it: the daemon's refusal would not say which job it is about."""
    try:
        line = json.dumps(message, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        raise ValueError("a name or text is not UTF-8, and a job line has to be") from None
    except ValueError:
        raise ValueError("a number is not finite, and JSON has only finite ones") from None
    if len(line) > DEFAULT_LINE_LIMIT_BYTES:
        limit_mib = DEFAULT_LINE_LIMIT_BYTES // 2**20
        raise ValueError(f"a job line has at most {limit_mib} MiB, and this one more")
    return line


class Channel:
    """Sends and receives messages until either side closes its stream."""

    def __init__(self, read: IO[bytes], write: IO[bytes]) -> None:
        self._write = write
        # None stands for the end of the stream.
        self._received: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_all, args=(read,), daemon=True)
        self._reader.start()

    def send(self, line: bytes) -> None:
        """Write what `line_of` made."""
        # A daemon that is gone says so by the end of its stdout, behind the last things that it
        # said; what it did not read is lost.
        with contextlib.suppress(BrokenPipeError):
            self._write.write(line)
            self._write.flush()

    def receive(self) -> Message | None:
        """The next message; None at the end of the stream, and ever after."""
        message = self._received.get()
        if message is None:
            self._received.put(None)
        return message

    def close(self) -> None:
        """Say that nothing more will be sent: the daemon finishes what it has, and ends."""
        with contextlib.suppress(BrokenPipeError):
            self._write.close()

    def _read_all(self, read: IO[bytes]) -> None:
        lines = LineSplitter(DEFAULT_LINE_LIMIT_BYTES)
        with read:
            while chunk := os.read(read.fileno(), READ_SIZE_BYTES):
                for line in lines.feed(chunk):
                    self._take(line)
        for line in lines.end():
            self._take(line)
        self._received.put(None)

    def _take(self, line: bytes | None) -> None:
        # Hosts pass over what they do not understand; a daemon's log that strays here is that.
        try:
            message = json.loads(line or b"null")
        except (ValueError, RecursionError):
            return
        if isinstance(message, dict):
            self._received.put(message)
