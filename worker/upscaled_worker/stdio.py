"""The worker's end of the wire: every thread's messages, one writer."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

from pydantic import BaseModel

from upscaled_protocol.codec import encode
from upscaled_protocol.messages import Progress
from upscaled_protocol.outbox import Outbox
from upscaled_protocol.stdio import NonBlockingWriter
from upscaled_worker.threads import guarded, start

# The host is gone: nobody is left to tell, and nothing may hold the device any longer.
EXIT_HOST_GONE = 4


class Stdout:
    """Takes messages from any thread and never makes one wait for the host.

    What the host does not read at once waits in an outbox, which a thread empties. Where the host
    is gone the process ends at once.
    """

    def __init__(
        self, write_fd: int, on_failure: Callable[[BaseException], None] = lambda _: None
    ) -> None:
        """`on_failure` is told of an exception that ends the thread."""
        self._outbox = Outbox(NonBlockingWriter(write_fd))
        self._changed = threading.Condition()
        start([guarded("stdout", self._flush, on_failure)])

    def send(self, message: BaseModel) -> None:
        """Send one message; progress may be coalesced."""
        line = encode(message)
        with self._changed:
            if isinstance(message, Progress):
                self._outbox.put_progress(message.job_id, line)
            else:
                self._outbox.put(line)
            self._write()
            if self._outbox.waiting_bytes:
                self._changed.notify_all()

    @property
    def waiting_bytes(self) -> int:
        """What the host has not taken yet."""
        return self._outbox.waiting_bytes

    @property
    def dropped_progress(self) -> int:
        """Progress messages that newer ones replaced."""
        return self._outbox.dropped_progress

    def drain(self) -> None:
        """Wait until the host has taken everything, or is gone. Needs no other thread."""
        poll = select.poll()
        poll.register(self._outbox.fd, select.POLLOUT)
        while self.waiting_bytes:
            poll.poll()
            with self._changed:
                self._write()

    def _write(self) -> None:
        try:
            self._outbox.flush()
        except OSError:
            os._exit(EXIT_HOST_GONE)

    def _flush(self) -> None:
        poll = select.poll()
        poll.register(self._outbox.fd, select.POLLOUT)
        while True:
            with self._changed:
                while not self._outbox.waiting_bytes:
                    self._changed.wait()
            poll.poll()
            with self._changed:
                self._write()
                if not self._outbox.waiting_bytes:
                    self._changed.notify_all()
