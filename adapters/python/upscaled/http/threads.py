"""Threads for a client's jobs. They end with the process, and when they are idle for a while."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

# An idle thread ends after this time.
_IDLE_S = 5.0


class Threads:
    """Runs up to `most` functions at a time, in the order in which they come."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._count = 0
        self._unfinished = 0
        self._idents: set[int] = set()

    @property
    def is_here(self) -> bool:
        """True in one of its threads."""
        return threading.get_ident() in self._idents

    def run(self, function: Callable[[], None]) -> None:
        """Call it in a thread, as soon as one is free. It must not raise."""
        with self._lock:
            self._unfinished += 1
            self._waiting.put(function)
            if self._count < min(self._most, self._unfinished):
                self._count += 1
                threading.Thread(target=self._work, name="upscaled-http", daemon=True).start()

    def _work(self) -> None:
        ident = threading.get_ident()
        self._idents.add(ident)
        try:
            while (function := self._next()) is not None:
                function()
                with self._lock:
                    self._unfinished -= 1
        finally:
            self._idents.discard(ident)

    def _next(self) -> Callable[[], None] | None:
        try:
            return self._waiting.get(timeout=_IDLE_S)
        except queue.Empty:
            with self._lock:
                # Check again under the lock, because a function may have come meanwhile.
                try:
                    return self._waiting.get_nowait()
                except queue.Empty:
                    self._count -= 1
                    return None
