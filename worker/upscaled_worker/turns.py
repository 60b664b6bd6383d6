"""Turns on a device: one job at a time, in the order in which jobs asked."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Turns:
    """A fair lock. A job that waits for it can be cancelled."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    @property
    def taken(self) -> bool:
        """True if a job has the device or waits for it."""
        return bool(self._queue)

    @contextmanager
    def turn(self, check: Callable[[], None]) -> Iterator[None]:
        """Hold the device. While the job waits, `check` is called after every `wake`; an exception
        that it raises ends the wait."""
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                while self._queue[0] is not ticket:
                    check()
                    self._changed.wait()
            except BaseException:
                self._leave(ticket)
                raise
        try:
            yield
        finally:
            with self._changed:
                self._leave(ticket)

    def wake(self) -> None:
        """Have every waiting job call its `check`."""
        with self._changed:
            self._changed.notify_all()

    def _leave(self, ticket: object) -> None:
        self._queue.remove(ticket)
        self._changed.notify_all()
