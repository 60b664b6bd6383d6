"""A running worker stopped, and its wire to its supervisor, to write on it in the worker's name."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from waiting import wait_until


def wire(pid: int) -> Path:
    """What a worker writes to: the first pipe above stderr that it can."""
    for fd in sorted(int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir()):
        path = Path(f"/proc/{pid}/fd/{fd}")
        flags = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().split("flags:")[1].split()[0]
        if fd > 2 and str(path.readlink()).startswith("pipe") and int(flags, 8) & os.O_WRONLY:
            return path
    pytest.fail("the worker has no wire")


def write_as_worker(pid: int, line: bytes) -> None:
    wire(pid).write_bytes(line)


def stop(pid: int) -> None:
    """Have it stand still, and wait until it does."""
    os.kill(pid, signal.SIGSTOP)
    process = psutil.Process(pid)
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "the stop")
