"""Threads of cancelled jobs that are inside a library which cannot be told to stop."""

from __future__ import annotations

from threading import Lock, Thread

# Between two looks at whether the job was cancelled.
LOOK_S = 0.1
# A thread between two calls of its library ends at once when it is told.
_ENDING_S = 0.25


class LeftBehind:
    """Those of one kind of work: they end when their library is done, and their jobs do not wait.

    Work of later jobs waits until no more than `allowed` of them are left, so that what they hold
    in memory does not add up.
    """

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._threads: list[Thread] = []
        self._lock = Lock()

    def end(self, thread: Thread) -> None:
        """Wait for a thread that was told to end; leave it behind where it does not listen."""
        thread.join(_ENDING_S)
        with self._lock:
            self._threads = [one for one in (*self._threads, thread) if one.is_alive()]

    def wait(self) -> None:
        """Until few enough are left."""
        while len(left := [one for one in self._threads if one.is_alive()]) > self._allowed:
            left[0].join()
