"""How the threads that compute wait for each other, and for the ones that do not."""

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

# OpenMP's threads spin while they wait, by default for milliseconds. Beside an encoder or another
# worker that wants the same core each wait then costs a time slice, and a picture takes ten times
# as long. With this count, a few hundred microseconds, they sleep before that; with a tenth of it
# they sleep within a network, between two of its layers, which doubles the time of a small one.
_SPIN_COUNT = "10000"


def settle_waiting() -> None:
    """Keep waiting threads from holding processors; before torch is imported, or it is too late."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


def give_way() -> None:
    """Have this thread, and those that it starts, wait until a computing one pauses, instead of
    interrupting it.

    All threads of a network wait for the one that is interrupted, and it has its caches to fill
    again. The share of the processors stays the same.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


class ComputingThread:
    """The one thread of a process that computes with torch on the processor.

    Each thread that does gets helpers of its own from OpenMP (GNU's). Where all of these together
    are more than the cores, none of them spins any more, whoever is at work: a small network then
    takes a third longer.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        self._thread = Thread(target=self._work, name="compute", daemon=True)
        self._thread.start()

    def run(self, task: Callable[[], ResultT]) -> ResultT:
        """Have the thread do it, after what it has to do already. Raises what the task raises."""
        if current_thread() is self._thread:
            return task()
        future: Future[ResultT] = Future()
        self._tasks.put((task, future))
        return future.result()

    def _work(self) -> None:
        while True:
            task, future = self._tasks.get()
            try:
                future.set_result(task())
            except BaseException as error:  # noqa: BLE001 - raised again where it was asked for
                future.set_exception(error)
            # Not held until the next task comes: pictures hang on them.
            del task, future


@cache
def computing_thread() -> ComputingThread:
    """This process' own."""
    return ComputingThread()
