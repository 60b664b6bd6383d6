"""Lanes: queues of jobs that never wait for each other."""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_left
from collections.abc import Callable

from upscaled_worker.job import RunningJob
from upscaled_worker.threads import guarded, start
from upscaled_worker.turns import Turns

# How soon a lane goes on once the host has read its results.
_HELD_CHECK_S = 0.05


class Lane:
    """One queue and the threads that empty it, highest priority first, equals in order.

    `slots` jobs run at once; what they do on the device is serialised by `turns`. While `is_held`
    says so, no job starts. `on_failure` is told of an exception that ends one of the threads.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        execute: Callable[[RunningJob], None],
        is_held: Callable[[], bool] = lambda: False,
        on_failure: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.slots = slots
        self.turns = Turns()
        self._execute = execute
        self._is_held = is_held
        self._changed = threading.Condition()
        self._order = itertools.count()
        self._waiting: list[tuple[int, int, RunningJob]] = []  # sorted
        self._busy = 0
        self._open = self._closed = False
        self._threads = [guarded(f"{name}-{slot}", self._work, on_failure) for slot in range(slots)]

    def start(self) -> None:
        """Start the threads, which wait until the lane is opened."""
        start(self._threads)

    def open(self) -> None:
        """Begin to work; jobs submitted before wait until then."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def submit(self, job: RunningJob) -> int:
        """Queue a job; how many start before it."""
        with self._changed:
            entry = (-job.job.priority, next(self._order), job)
            ahead = bisect_left(self._waiting, entry)
            self._waiting.insert(ahead, entry)
            self._changed.notify()
            return self._busy + ahead

    def withdraw(self, job: RunningJob) -> bool:
        """Take a job back that has not started; False where it has."""
        with self._changed:
            remaining = [entry for entry in self._waiting if entry[2] is not job]
            withdrawn = len(remaining) < len(self._waiting)
            self._waiting = remaining
            return withdrawn

    @property
    def waiting(self) -> int:
        """Jobs that have not started."""
        return len(self._waiting)

    def close(self) -> None:
        """Have the threads end once the queue is empty."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until everything is done; `close` first."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting or not self._open or self._is_held():
                    if self._closed and not self._waiting:
                        return
                    self._changed.wait(_HELD_CHECK_S if self._waiting and self._open else None)
                job = self._waiting.pop(0)[2]
                self._busy += 1
            try:
                self._execute(job)
            finally:
                with self._changed:
                    self._busy -= 1
