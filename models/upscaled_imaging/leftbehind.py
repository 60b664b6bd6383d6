"""Threads of cancelled jobs that are inside a library call which cannot be interrupted."""

from __future__ import annotations

from threading import Lock, Thread

# How often a cancel of the job is checked.
LOOK_S = 0.1
# A thread that is not inside a library call ends at once if it is stopped.
_ENDING_S = 0.25


class LeftBehind:
    """Threads of one kind of work that their jobs no longer wait for.

    Each ends when its library call returns. The work of later jobs waits until at most `allowed` of
    them are left, so that their memory does not add up.
    """

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._threads: list[Thread] = []
        self._lock = Lock()

    def end(self, thread: Thread) -> None:
        """Wait a moment for a thread that was stopped; leave it behind if it is still busy."""
        thread.join(_ENDING_S)
        with self._lock:
            self._threads = [one for one in (*self._threads, thread) if one.is_alive()]

    def wait(self) -> None:
        """Wait until at most `allowed` threads are left."""
        while len(left := [one for one in self._threads if one.is_alive()]) > self._allowed:
            left[0].join()
