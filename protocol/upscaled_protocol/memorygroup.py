"""Memory within the limits of this process's control groups (Linux, both versions).

In a container the machine's numbers are wrong: the machine may have memory that this process must
not use, and its count of OOM kills includes other containers. See the kernel's
admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from upscaled_protocol.controlgroups import PROC, control_groups

# Version 1 writes a number near the largest one for "no limit".
_NO_LIMIT = 2**60


class _Names(NamedTuple):
    """The names of a version's files. cache: the counter of memory that is freed on demand."""

    limit: str
    used: str
    cache: str
    kills: tuple[str, ...]


# `memory.events.local` counts the processes of this group. Before Linux 5.2 there is only the count
# that includes the groups below.
_VERSION_1 = _Names(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
    ("memory.oom_control",),
)
_VERSION_2 = _Names(
    "memory.max", "memory.current", "inactive_file", ("memory.events.local", "memory.events")
)


def available_bytes(proc: Path = PROC) -> int:
    """Memory that this process can still allocate: the least of the machine's and every group's."""
    import psutil  # here, because the import takes 20 ms

    names, folders = _groups(proc)
    available = [int(psutil.virtual_memory().available)]
    for folder in folders:
        limit, used = _number(folder / names.limit), _number(folder / names.used)
        if limit is not None and used is not None and limit < _NO_LIMIT:
            cache = _counter(folder / "memory.stat", names.cache) or 0
            available.append(max(limit - max(used - cache, 0), 0))
    return min(available)


def total_bytes(proc: Path = PROC) -> int:
    """Memory of the machine, or of the smallest group that this process is in."""
    import psutil

    names, folders = _groups(proc)
    limits = (_number(folder / names.limit) for folder in folders)
    return min([int(psutil.virtual_memory().total), *(one for one in limits if one is not None)])


def count_oom_kills(proc: Path = PROC) -> int:
    """How many processes of this process's group the kernel has killed because memory ran out; of
    the machine, if the group has no count."""
    names, folders = _groups(proc)
    for folder in folders[:1]:
        for name in names.kills:
            count = _counter(folder / name, "oom_kill")
            if count is not None:
                return count
    return _counter(proc / "vmstat", "oom_kill") or 0


def _groups(proc: Path) -> tuple[_Names, list[Path]]:
    """The files' names, and the folders of this process's memory groups, the innermost first."""
    version, folders = control_groups("memory", proc)
    return _VERSION_1 if version == 1 else _VERSION_2, folders


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _counter(path: Path, name: str) -> int | None:
    try:
        lines = path.read_text("ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[:1] == [name])
    except (OSError, ValueError, IndexError, StopIteration):
        return None
