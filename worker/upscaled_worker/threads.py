"""The threads that a worker cannot do without."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from threading import Thread

from upscaled_protocol.lineage import EXIT_NO_ROOM

# A thread of the worker ended by an exception: what sysexits.h calls an internal software error.
EXIT_FAILED = 70


def guarded(
    name: str, target: Callable[[], object], on_failure: Callable[[BaseException], object]
) -> Thread:
    """A thread that reports whatever exception ends it: no other thread would notice, and what it
    was to do would wait for ever."""

    def run() -> None:
        try:
            target()
        except BaseException as error:  # noqa: BLE001 - also SystemExit, which threading hides
            on_failure(error)

    return Thread(target=run, name=name, daemon=True)


def start(threads: Iterable[Thread]) -> None:
    """Start them; ends the process where the machine has no room for one."""
    try:
        for thread in threads:
            thread.start()
    except RuntimeError as error:
        sys.stderr.write(f"the machine has no room for a thread: {error}\n")
        sys.stderr.flush()
        os._exit(EXIT_NO_ROOM)
