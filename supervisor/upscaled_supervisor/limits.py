"""Limits of this process and its workers, named if a worker cannot start because of one."""

from __future__ import annotations

import resource
import signal

# Libraries of C and C++ crash so if they get no memory.
_SIGNALS_OF_NO_MEMORY = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)


def with_limit(detail: str) -> str:
    """The sentence, and the limit that it is about if there is one."""
    if "open files" in detail:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"{detail}; a process may have {most}: raise `ulimit -n`"
    if (limit := memory_limit()) and ("thread" in detail or "memory" in detail):
        return f"{detail}; {limit}"
    return detail


def memory_limit() -> str | None:
    """The limit of a process's memory, if there is one."""
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return None
    return f"a process may have {most // 2**20} MiB of memory: raise `ulimit -v`"


def killing_limit(signum: int) -> str | None:
    """The limit that a process may have been killed for by this signal, if there is one."""
    if signum in _SIGNALS_OF_NO_MEMORY:
        return memory_limit()
    most_s = resource.getrlimit(resource.RLIMIT_CPU)[0]
    if signum not in (signal.SIGKILL, signal.SIGXCPU) or most_s == resource.RLIM_INFINITY:
        return None
    return f"a process may use {most_s} s of processor time: raise `ulimit -t`"
