"""The operating system as the supervisor uses it: its clock, signals, processes and memory.

Every other module decides and calls this one. A test gives a `System` of its own, in which time
passes at once and a worker is an object.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from upscaled_protocol import memorygroup, processtree
from upscaled_supervisor.forkserver import ForkServer

_MIB = 1024 * 1024


class System:
    """Make one before the first process is started: it remembers which children were there."""

    def __init__(self) -> None:
        # A shell that became this process by `exec` leaves its own children to it, such as the
        # `tee` that reads our stdout. They are not ours to kill.
        self._inherited_pids = processtree.child_pids(os.getpid())

    def now(self) -> float:
        """Seconds of a clock that is never set back."""
        return time.monotonic()

    def catch_signals(self) -> int:
        """A descriptor from which the numbers of the signals to this process can be read."""
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            # A signal that `nohup` or a shell's `&` has made ignored stays ignored.
            is_ignored = signal.getsignal(signum) == signal.SIG_IGN
            if not is_ignored or signum not in (signal.SIGINT, signal.SIGHUP):
                signal.signal(signum, lambda *_: None)
        # The host may have blocked signals for itself, and this process has inherited that.
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        return read_fd

    def start_fork_server(self, worker_argv: list[str], *, template: bool) -> ForkServer:
        """Start the process that starts the workers. Raises `OSError` if there is no room."""
        return ForkServer(worker_argv, template=template)

    def become_subreaper(self) -> None:
        """Become the parent of every descendant whose own parent exits."""
        processtree.become_subreaper()

    def child_pids(self, pid: int) -> list[int]:
        """The children of a process."""
        return processtree.child_pids(pid)

    def send_signal(self, pid: int, signum: int) -> None:
        """Signal a worker and every process in its group."""
        if processtree.kill_group(pid, signum):
            return
        # A worker that was forked a moment ago does not lead a group yet. (If it has exited, its
        # pid is not in use again so soon.)
        with contextlib.suppress(OSError):
            os.kill(pid, signum)

    def kill_group(self, leader_pid: int) -> None:
        """SIGKILL every process of a group, if it exists."""
        processtree.kill_group(leader_pid)

    def kill_descendants(self) -> None:
        """SIGKILL every process below this one and wait until they are gone."""
        processtree.kill_descendants(spared=self._inherited_pids)

    def has_exited(self, pid: int) -> bool:
        """True if the process is gone, or is a zombie that its parent has not reaped."""
        import psutil  # imported here because it takes 20 ms of a start

        try:
            return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    def resident_mb(self, pid: int) -> float | None:
        """Resident memory of a process in MiB; None if it is gone."""
        import psutil  # imported here because it takes 20 ms of a start

        try:
            return float(psutil.Process(pid).memory_info().rss) / _MIB
        except psutil.Error:
            return None

    def available_mb(self) -> float:
        """Memory that is free for another process, in MiB."""
        return memorygroup.available_bytes() / _MIB

    def count_oom_kills(self) -> int:
        """Processes that the kernel has killed because memory ran out."""
        return memorygroup.count_oom_kills()
