"""Limits of this process and its workers, named if a worker cannot start because of one."""

from __future__ import annotations

import resource


def with_limit(detail: str) -> str:
    """The sentence, and the limit that it is about if there is one."""
    if "open files" in detail:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"{detail}; a process may have {most}: raise `ulimit -n`"
    memory = resource.getrlimit(resource.RLIMIT_AS)[0]
    if memory != resource.RLIM_INFINITY and ("thread" in detail or "memory" in detail):
        return f"{detail}; a process may have {memory // 2**20} MiB of memory: raise `ulimit -v`"
    return detail
