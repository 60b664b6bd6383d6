"""Threads that the worker needs: if one of them fails, so does the worker."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from threading import Thread

from upscaled_protocol.processtree import EXIT_NO_ROOM

# The exit status if an exception ends one of the worker's threads: EX_SOFTWARE of sysexits.h.
EXIT_FAILED = 70


def guarded(
    name: str, target: Callable[[], object], on_failure: Callable[[BaseException], object]
) -> Thread:
    """A thread that calls `on_failure` if an exception ends it. No other thread would notice, and
    its work would never be done."""

    def run() -> None:
        try:
            target()
        except BaseException as error:  # noqa: BLE001 - also SystemExit, which threading hides
            on_failure(error)

    return Thread(target=run, name=name, daemon=True)


def start(threads: Iterable[Thread]) -> None:
    """Start threads. Ends the process if the machine has no room for one."""
    try:
        for thread in threads:
            thread.start()
    except RuntimeError as error:
        sys.stderr.write(f"the machine has no room for a thread: {error}\n")
        sys.stderr.flush()
        os._exit(EXIT_NO_ROOM)
