"""Parents and children of processes: a child exits with its parent, and no descendant is left.

On Linux the kernel helps (prctl(2): PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER). On other systems
these functions do nothing, and a process notices the exit of its parent by a closed pipe alone. So
it is in a container that is made for another processor, if its emulator (qemu) refuses the call.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

# The exit status if the parent had exited before `exit_with_parent` was called.
EXIT_ORPHANED = 5
# The exit status if the machine has no room for the process or its threads. It may have room later:
# EX_TEMPFAIL of sysexits.h.
EXIT_NO_ROOM = 75


def exit_with_parent(parent_pid: int, signum: int = signal.SIGKILL) -> None:
    """Have the kernel send `signum` when the parent exits. If it has exited already, exit.

    The kernel watches the *thread* that started this process, so a parent must start its children
    from a thread that runs as long as the parent.
    """
    _prctl(_PR_SET_PDEATHSIG, signum)
    # If the parent exited before the call above, no signal comes.
    if os.getppid() != parent_pid:
        os._exit(EXIT_ORPHANED)


def become_subreaper() -> None:
    """Become the parent of every descendant whose own parent exits."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def block_hangups() -> None:
    """Block SIGHUP, which by default ends the process, until a handler is installed."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])


def child_pids(pid: int) -> list[int]:
    """The children of a process, zombies included; empty if the process is gone."""
    if sys.platform != "linux":
        return _children_by_psutil(pid)
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children += map(int, (task / "children").read_text().split())
    return children


def _children_by_psutil(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def kill_descendants(spared: Collection[int] = ()) -> None:
    """SIGKILL and reap every descendant, except the `spared` children. Call `become_subreaper` at
    the start of the process.

    The children of a killed process become children of this one, so this repeats until there are
    none.
    """
    while True:
        found = [pid for pid in child_pids(os.getpid()) if pid not in spared]
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            # Without blocking: a process may become a child after the list was made.
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                if spared and not found:
                    return
                time.sleep(0.001)
        except ChildProcessError:
            return


def kill_group(leader_pid: int, signum: int = signal.SIGKILL) -> bool:
    """Signal a process group; False if there is no group of that leader."""
    try:
        os.killpg(leader_pid, signum)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def from_existing_folder() -> Iterator[None]:
    """Load libraries in this context: some (MKL) end the process if the working folder was deleted.

    If it was, `/` is the working folder of the whole process meanwhile.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        deleted = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.chdir("/")
            yield
        finally:
            os.fchdir(deleted)
            os.close(deleted)
    else:
        yield


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        return
    import ctypes  # here, because the import takes 5 ms

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        if number != errno.EINVAL:
            raise OSError(number, f"prctl({option}): {os.strerror(number)}")
