"""Descriptors and their handlers. The supervisor waits here and in no other place."""

from __future__ import annotations

import select
from collections.abc import Callable

from upscaled_protocol.outbox import Outbox

Handler = Callable[[], object]


class Poller:
    """`select.poll` with a handler per descriptor."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._reading: dict[int, Handler] = {}
        self._writing: dict[int, Handler] = {}

    def watch_reading(self, fd: int, handler: Handler, events: int = select.POLLIN) -> None:
        """Call `handler` when there is something to read, or the other end is closed."""
        if self._reading.get(fd) is None:
            self._poll.register(fd, events)
        self._reading[fd] = handler

    def watch_writing(self, outbox: Outbox, handler: Handler) -> None:
        """Call `handler` when an outbox can be written, as long as something waits in it."""
        if outbox.waiting_bytes and outbox.fd not in self._writing:
            self._writing[outbox.fd] = handler
            self._poll.register(outbox.fd, select.POLLOUT)
        elif not outbox.waiting_bytes and outbox.fd in self._writing:
            self.forget(outbox.fd)

    def forget(self, fd: int) -> None:
        """Watch a descriptor no longer. Call it before the descriptor is closed: its number is
        used again."""
        was_reading = self._reading.pop(fd, None)
        was_writing = self._writing.pop(fd, None)
        if was_reading or was_writing:
            self._poll.unregister(fd)

    def run_once(self, timeout_s: float) -> bool:
        """Wait until a descriptor is ready and call the handlers; False if none became ready."""
        ready = self._poll.poll(max(timeout_s, 0.0) * 1000)
        for fd, _ in ready:
            handler = self._reading.get(fd) or self._writing.get(fd)
            if handler is not None:  # an earlier handler may have closed it
                handler()
        return bool(ready)
