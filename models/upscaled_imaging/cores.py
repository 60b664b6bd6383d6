"""How many cores this process may use."""

from __future__ import annotations

import math
import os
import sys
from functools import cache
from pathlib import Path

from upscaled_protocol.controlgroups import PROC, control_groups


def computing_threads(sharers: int = 1) -> int:
    """One thread per physical core that this process may use: a second one gains nothing.

    sharers: how many processes share the cores.
    """
    return max(1, min(_cores(), allowed_cores()) // sharers)


def allowed_cores() -> int:
    """Logical cores that this process may use: those that it may run on, or fewer if its control
    group has less processor time, as in `docker run --cpus 2`."""
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    return max(1, math.ceil(min(cores, time_limit())))


@cache
def time_limit(proc: Path = PROC) -> float:
    """Seconds of processor time that the process's control groups allow per second; infinite
    without a limit.

    A process with more threads than that uses its time up in a part of each period, and then all
    of them are stopped, also those that hold a lock.
    """
    version, folders = control_groups("cpu", proc)
    read = _limit_of_version_1 if version == 1 else _limit_of_version_2
    return min((read(folder) for folder in folders), default=math.inf)


def _limit_of_version_1(folder: Path) -> float:
    try:
        quota_us = int((folder / "cpu.cfs_quota_us").read_text("ascii"))
        period_us = int((folder / "cpu.cfs_period_us").read_text("ascii"))
    except (OSError, ValueError):  # the outermost group has no such files
        return math.inf
    return quota_us / period_us if quota_us > 0 else math.inf


def _limit_of_version_2(folder: Path) -> float:
    try:
        quota_us, period_us = map(int, (folder / "cpu.max").read_text("ascii").split())
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf
    return quota_us / period_us


@cache
def _cores() -> int:
    import psutil  # here, so that `upscaled doctor` works without it

    return psutil.cpu_count(logical=False) or 1
