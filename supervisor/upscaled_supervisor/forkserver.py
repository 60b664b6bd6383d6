"""The supervisor's side of the fork server: the process that is the parent of all workers.

`upscaled_worker.forkserver` is the other side; both speak JSON lines over one socket.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import Any

from upscaled_protocol.lines import READ_SIZE_BYTES, LineSplitter, decode_line, encode_line
from upscaled_protocol.processtree import kill_group

_PIDS = 2**31
# Bytes of a line that is no notice, for the error.
_QUOTED_BYTES = 80
# It kills its workers in milliseconds. While it still imports, it does not react at all.
_CLOSE_TIMEOUT_S = 1.0


class ForkServer:
    """One fork server process. Poll `fd` for reading, and call `read` then."""

    def __init__(self, worker_argv: list[str], *, template: bool) -> None:
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        self._lines = LineSplitter()
        theirs.set_inheritable(True)
        argv = [
            # -P: import nothing from the working folder, which any user may write to.
            *(sys.executable, "-P", "-m", "upscaled_worker.forkserver"),
            *("--control-fd", str(theirs.fileno()), "--parent-pid", str(os.getpid())),
            *([] if template else ["--no-template"]),
            *worker_argv,
        ]
        # A session of its own: a signal to our process group must not reach the workers, because
        # they finish their jobs while we drain. OPENBLAS_NUM_THREADS: a fork needs a single
        # thread, and numpy starts a pool at its import. PYTHONSAFEPATH is -P for processes that a
        # library starts. posix_spawn: the import of subprocess takes 10 ms of a start.
        self.pid = os.posix_spawn(
            sys.executable,
            argv,
            os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, 2, 1),
            ],
            setsid=True,
        )
        theirs.close()
        self.fd = self._control.fileno()
        self._exit_code: int | None = None

    def read(self) -> list[dict[str, Any]] | None:
        """The notices that have arrived; None if the process is gone. Raises `ValueError` for a
        line that is no notice."""
        try:
            data = self._control.recv(READ_SIZE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not data:
            return None
        return [read_notice(line) for line in self._lines.feed(data) if line is not None]

    def spawn(self, number: int, argv: list[str], env: dict[str, str], stdio: list[int]) -> None:
        """Ask for a worker with these three descriptors as its stdio. Its pid arrives as the
        notice `{"spawn": number, "pid": pid}`.

        Raises `BlockingIOError` if too many requests wait, `OSError` if the process is gone.
        """
        request = encode_line({"spawn": number, "argv": argv, "env": env})
        socket.send_fds(self._control, [request], stdio)

    def close(self) -> None:
        """Close the socket: the process kills its workers and exits."""
        self._control.close()

    def wait(self) -> int:
        """Wait until the process has exited, and kill it if it does not. Call `close` first.

        Returns its exit code, or the negative number of the signal that killed it.
        """
        end = time.monotonic() + _CLOSE_TIMEOUT_S
        while self._exit_code is None:
            self.reap()
            if time.monotonic() > end:
                kill_group(self.pid)
            time.sleep(0.002)
        return self._exit_code

    def reap(self) -> None:
        """Reap the processes that have exited: the fork server, and adopted orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self._exit_code = os.waitstatus_to_exitcode(status)


def read_notice(line: bytes) -> dict[str, Any]:
    """Read one notice of a fork server. Raises `ValueError` if the line is no notice."""
    notice = decode_line(line)
    match notice:
        case {"template": bool()} | {"usage": str() | None} | {"spawn": int(), "failed": str()}:
            return dict(notice)
        case {"spawn": int(), "pid": int(pid)} if 1 < pid < _PIDS:
            return dict(notice)
        case {"exited": int(pid), "status": int(status)} if 1 < pid < _PIDS and 0 <= status < 2**16:
            return dict(notice)
    raise ValueError(f"the fork server wrote {line[:_QUOTED_BYTES]!r}")
