"""The threads of a process: how they wait, which yield to others, and the one that computes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from queue import SimpleQueue
from threading import Thread, current_thread
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")

# OpenMP's threads spin while they wait, by default for milliseconds. If an encoder or another
# worker needs the same core, each wait then costs a time slice, and a picture takes ten times as
# long. With this count they sleep after a few hundred microseconds. With a tenth of it they sleep
# between two layers of a network, which doubles the time of a small one.
_SPIN_COUNT = "10000"


def settle_waiting() -> None:
    """Keep waiting threads from holding processors. Call it before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


def give_way() -> None:
    """Make this thread, and those that it starts, wait for a pause of a computing thread.

    If it interrupted one instead, all threads of that network would wait, and the interrupted one
    would have to fill its caches again. The thread's share of the processors stays the same.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


class ComputingThread:
    """The one thread of a process that computes with torch on the processor.

    OpenMP (GNU's) gives each thread that computes a team of its own. If all teams together have
    more threads than there are cores, no thread spins any more, and a small network takes a third
    longer.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._thread = Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()

    def run(self, task: Callable[[], ResultT]) -> ResultT:
        """Run `task` in the thread, after earlier tasks. Raises what the task raises."""
        if current_thread() is self._thread:
            return task()
        future: Future[ResultT] = Future()
        self._tasks.put((task, future))
        try:
            return future.result()
        finally:
            # An error holds this call's variables: with the future among them they never go.
            del future

    def _work(self) -> None:
        while True:
            task, future = self._tasks.get()
            try:
                future.set_result(task())
            except BaseException as error:  # noqa: BLE001 - raised again by `run`
                future.set_exception(error)
            # They hold pictures, which must not stay in memory until the next task.
            del task, future


@cache
def computing_thread() -> ComputingThread:
    """The one of this process."""
    return ComputingThread()
