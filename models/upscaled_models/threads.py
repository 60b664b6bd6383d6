"""How many threads an engine computes with, and how they wait for each other."""

from __future__ import annotations

import os

import psutil

# OpenMP's threads spin while they wait, by default for milliseconds. Beside an encoder or another
# worker that wants the same core each wait then costs a time slice, and a picture takes ten times
# as long. With this count, a few hundred microseconds, they sleep before that; with a tenth of it
# they sleep within a network, between two of its layers, which doubles the time of a small one.
_SPIN_COUNT = "10000"


def settle_waiting() -> None:
    """Keep waiting threads from holding processors; before torch is imported, or it is too late."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


def computing_threads() -> int:
    """The cores that this process may use; a second thread on a core gains nothing."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(psutil.cpu_count(logical=False) or 1, allowed or 1))
