"""The limits (`ulimit`) of this process and its workers, for the cause of a failed start."""

from __future__ import annotations

import resource
import signal

# Libraries of C and C++ crash with these if they get no memory.
_NO_MEMORY_SIGNALS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)


def with_limit(detail: str) -> str:
    """The sentence, followed by the limit that explains it, if one does."""
    if "open files" in detail:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"{detail}; a process may have {most}: raise `ulimit -n`"
    if (limit := memory_limit()) and ("thread" in detail or "memory" in detail):
        return f"{detail}; {limit}"
    return detail


def memory_limit() -> str | None:
    """A sentence about the limit of a process's memory; None if there is none."""
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most == resource.RLIM_INFINITY:
        return None
    return f"a process may have {most // 2**20} MiB of memory: raise `ulimit -v`"


def killing_limit(signum: int) -> str | None:
    """A sentence about the limit that this signal may enforce; None if there is none."""
    if signum in _NO_MEMORY_SIGNALS:
        return memory_limit()
    most_s = resource.getrlimit(resource.RLIMIT_CPU)[0]
    if signum not in (signal.SIGKILL, signal.SIGXCPU) or most_s == resource.RLIM_INFINITY:
        return None
    return f"a process may use {most_s} s of processor time: raise `ulimit -t`"
