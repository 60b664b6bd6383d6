"""Lanes: queues of jobs that never wait for each other."""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_left
from collections.abc import Callable

from upscaled_protocol.messages import LaneInfo
from upscaled_worker.engines import Engines
from upscaled_worker.job import RunningJob
from upscaled_worker.threads import guarded, start
from upscaled_worker.turns import Turns

# How often a paused lane checks whether it is still paused.
_PAUSE_CHECK_S = 0.05


class Lane:
    """One queue and the threads that empty it, highest priority first, equals in order.

    `slots` jobs run at once; `turns` lets one of them at a time use the device. While `is_paused`
    returns true, no job starts. `on_failure` is called if an exception ends one of the threads.
    """

    def __init__(
        self,
        name: str,
        slots: int,
        execute: Callable[[RunningJob], None],
        is_paused: Callable[[], bool],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.slots = slots
        self.turns = Turns()
        self._execute = execute
        self._is_paused = is_paused
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
        """Begin to run jobs. Jobs that were submitted before wait until then."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def submit(self, job: RunningJob) -> int:
        """Queue a job. Returns how many jobs start before it."""
        with self._changed:
            entry = (-job.job.priority, next(self._order), job)
            ahead = bisect_left(self._waiting, entry)
            self._waiting.insert(ahead, entry)
            self._changed.notify()
            return self._busy + ahead

    def withdraw(self, job: RunningJob) -> bool:
        """Take a job out of the queue; False if it has started."""
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
        """Wait until the threads have ended. Call `close` first."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting or not self._open or self._is_paused():
                    if self._closed and not self._waiting:
                        return
                    self._changed.wait(_PAUSE_CHECK_S if self._waiting and self._open else None)
                job = self._waiting.pop(0)[2]
                self._busy += 1
            try:
                self._execute(job)
            finally:
                with self._changed:
                    self._busy -= 1


class Lanes:
    """The lanes of a worker's engines. Engines of one lane share its queue and its device."""

    def __init__(
        self,
        engines: Engines,
        execute: Callable[[RunningJob], None],
        *,
        is_paused: Callable[[], bool],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._engines = engines
        self._lanes: dict[str, Lane] = {}
        for method in engines.methods:
            engine = engines[method]
            if engine.lane not in self._lanes:
                self._lanes[engine.lane] = Lane(
                    engine.lane, engine.slots, execute, is_paused, on_failure
                )

    def of(self, method: str) -> Lane:
        """The lane that runs the jobs of a method."""
        return self._lanes[self._engines[method].lane]

    @property
    def waiting(self) -> int:
        """Jobs of all lanes that have not started."""
        return sum(lane.waiting for lane in self._lanes.values())

    def info(self) -> dict[str, LaneInfo]:
        """For `ready`. Names the methods of broken engines too: their jobs get an error that says
        what is wrong."""
        engines = self._engines
        return {
            name: LaneInfo(
                methods=[one for one in engines.methods if engines[one].lane == name],
                slots=lane.slots,
            )
            for name, lane in self._lanes.items()
        }

    def start(self) -> None:
        """Start the threads of all lanes, which wait until `open`."""
        for lane in self._lanes.values():
            lane.start()

    def open(self) -> None:
        """Begin to run jobs."""
        for lane in self._lanes.values():
            lane.open()

    def finish(self) -> None:
        """Wait until every queued job has ended."""
        for lane in self._lanes.values():
            lane.close()
        for lane in self._lanes.values():
            lane.join()
