"""How many cores this process may use."""

from __future__ import annotations

import os
import sys
from functools import cache

import psutil


def computing_threads() -> int:
    """One thread per physical core that this process may use: a second one gains nothing."""
    return max(1, min(_cores(), allowed_cores()))


def allowed_cores() -> int:
    """Logical cores that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _cores() -> int:
    return psutil.cpu_count(logical=False) or 1
