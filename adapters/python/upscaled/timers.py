"""Timers of a client's calls, all in one thread."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

# Without timers, the thread ends after this time.
_IDLE_S = 5.0


def wait_s(seconds: float) -> float:
    """The time as the waits of `threading` take it: from 0 to their limit, for `math.inf`."""
    return min(max(0.0, seconds), threading.TIMEOUT_MAX)


class Timer:
    """A function that is called once, unless it is cancelled first."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Do not call it any more."""
        self._call = None

    def fire(self) -> None:
        """Call it now."""
        call, self._call = self._call, None
        if call is not None:
            call()

    @property
    def is_over(self) -> bool:
        """True if it was called or cancelled."""
        return self._call is None


class Timers:
    """Starts its thread with the first timer. A timer's function must not wait long."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._is_running = False
        # Above this size, cancelled timers are removed from the heap.
        self._sweep_at = 1000

    def start(self, delay_s: float, call: Callable[[], None]) -> Timer:
        """Call the function after this time, in the timers' thread."""
        timer = Timer(call)
        with self._changed:
            row = (time.monotonic() + delay_s, next(self._count), timer)
            heapq.heappush(self._due, row)
            if len(self._due) > self._sweep_at:
                self._sweep()
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="upscaled-timers", daemon=True).start()
            elif self._due[0] is row:
                self._changed.notify_all()
        return timer

    def _sweep(self) -> None:
        self._due = [row for row in self._due if not row[2].is_over]
        heapq.heapify(self._due)
        self._sweep_at = max(1000, 2 * len(self._due))

    def _run(self) -> None:
        while (timer := self._next()) is not None:
            timer.fire()

    def _next(self) -> Timer | None:
        """Wait for the next due timer; None if there was no timer for a while."""
        with self._changed:
            idle_since = time.monotonic()
            while True:
                while self._due and self._due[0][2].is_over:
                    heapq.heappop(self._due)
                now = time.monotonic()
                if self._due and self._due[0][0] <= now:
                    return heapq.heappop(self._due)[2]
                if self._due:
                    self._changed.wait(wait_s(self._due[0][0] - now))
                elif now - idle_since >= _IDLE_S:
                    self._is_running = False
                    return None
                else:
                    self._changed.wait(_IDLE_S)
