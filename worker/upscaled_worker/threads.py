"""The threads that a worker cannot do without."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from threading import Thread

from upscaled_protocol.lineage import EXIT_NO_ROOM


def start(threads: Iterable[Thread]) -> None:
    """Start them; ends the process where the machine has no room for one."""
    try:
        for thread in threads:
            thread.start()
    except RuntimeError as error:
        sys.stderr.write(f"the machine has no room for a thread: {error}\n")
        sys.stderr.flush()
        os._exit(EXIT_NO_ROOM)
