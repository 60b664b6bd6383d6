"""Parents and children of processes: dying with a parent, adopting orphans, leaving none behind.

On Linux the kernel helps (prctl(2): PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER); elsewhere these are
no-ops and closing pipes alone tell of a parent's end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

# What a parent has that died before its child could ask to die with it.
EXIT_ORPHANED = 5
# A process that the machine has no room for, such as for its threads; later it may have.
# What sysexits.h calls a temporary failure.
EXIT_NO_ROOM = 75


def exit_with_parent(parent_pid: int, signum: int = signal.SIGKILL) -> None:
    """Have the kernel send `signum` when the parent dies; exit where it is dead already.

    The signal follows the parent's *thread* that made this process, so a parent must start its
    children from a thread that lives as long as itself.
    """
    _prctl(_PR_SET_PDEATHSIG, signum)
    # It may have died before the call above, and then no signal comes.
    if os.getppid() != parent_pid:
        os._exit(EXIT_ORPHANED)


def become_subreaper() -> None:
    """Become the parent of every descendant whose own parent dies."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def block_hangups() -> None:
    """Have a SIGHUP wait until somebody handles it: by default it ends the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])


def child_pids(pid: int) -> list[int]:
    """Living and zombie children of a process; empty if it is gone."""
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
    """SIGKILL everything below this process and reap it; returns when nothing is left, but for
    the `spared` children.

    Killed parents hand their children up to us (`become_subreaper` first), so this goes on until
    there are none.
    """
    while True:
        doomed = [pid for pid in child_pids(os.getpid()) if pid not in spared]
        for pid in doomed:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            # Without blocking: the list above may lack one that was being handed up to us.
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                if spared and not doomed:
                    return
                time.sleep(0.001)
        except ChildProcessError:
            return


def kill_group(leader_pid: int, signum: int = signal.SIGKILL) -> bool:
    """Signal a process group; False where there is none of that leader."""
    try:
        os.killpg(leader_pid, signum)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def from_existing_folder() -> Iterator[None]:
    """For libraries to be loaded: some (MKL) end the process if the working folder was deleted.

    The working folder is `/` meanwhile, for the whole process; afterwards relative paths mean what
    they did.
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
    import ctypes  # here, for it costs a start 5 ms where nobody asks for it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
