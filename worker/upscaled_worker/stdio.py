"""The worker's end of the wire: takes the messages of all threads and writes them."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from typing import NoReturn

from pydantic import BaseModel

from upscaled_protocol.codec import encode
from upscaled_protocol.messages import Progress
from upscaled_protocol.outbox import Outbox
from upscaled_protocol.stdio import NonBlockingWriter
from upscaled_worker.threads import guarded, start

# The exit status if the host is gone: no job is needed any more, and the device must be released.
EXIT_HOST_GONE = 4

# Past this no more lines are read and no more jobs start, so that memory stays bounded if a host
# does not read its results.
_UNREAD_LIMIT_BYTES = 16 * 1024 * 1024


class Stdout:
    """Takes messages from any thread and never makes a thread wait for the host.

    Messages that the host does not read at once wait in an outbox, which a thread empties. If the
    host is gone, the process ends at once.
    """

    def __init__(
        self,
        write_fd: int,
        on_failure: Callable[[BaseException], None],
        exit_process: Callable[[int], NoReturn],
    ) -> None:
        """on_failure: called if an exception ends the thread."""
        self._outbox = Outbox(NonBlockingWriter(write_fd))
        self._exit_process = exit_process
        self._changed = threading.Condition()
        self._has_last = False
        start([guarded("stdout", self._flush, on_failure)])

    def send(self, message: BaseModel) -> None:
        """Send one message; progress may be coalesced. Nothing is sent after `send_last`."""
        line = encode(message)
        with self._changed:
            if self._has_last:
                return
            if isinstance(message, Progress):
                self._outbox.put_progress(message.job_id, line)
            else:
                self._outbox.put(line)
            self._write()
            if self._outbox.waiting_bytes:
                self._changed.notify_all()

    def send_last(self, message: BaseModel) -> None:
        """Send one more message, and drop what threads that still run send behind it."""
        with self._changed:
            self.send(message)
            self._has_last = True

    @property
    def waiting_bytes(self) -> int:
        """Bytes that the host has not taken yet."""
        return self._outbox.waiting_bytes

    @property
    def is_unread(self) -> bool:
        """True if the host leaves so much unread that it must first read on."""
        return self._outbox.waiting_bytes > _UNREAD_LIMIT_BYTES

    @property
    def dropped_progress(self) -> int:
        """Progress messages that newer ones replaced."""
        return self._outbox.dropped_progress

    def drain(self) -> None:
        """Wait until the host has taken everything. Needs no other thread."""
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
            self._exit_process(EXIT_HOST_GONE)

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
