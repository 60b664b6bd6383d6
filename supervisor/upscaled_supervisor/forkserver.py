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
# So much of a line that is no notice is told.
_QUOTED_BYTES = 80
# Killing what is below it takes milliseconds; while it still imports, the wait is in vain.
_CLOSE_TIMEOUT_S = 1.0


class ForkServer:
    """One fork server process. `fd` is to be polled for reading; `read` then gives its messages."""

    def __init__(self, worker_argv: list[str], *, template: bool) -> None:
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        self._lines = LineSplitter()
        theirs.set_inheritable(True)
        argv = [
            # -P: the working folder may be anybody's, and nothing is to be imported from it.
            *(sys.executable, "-P", "-m", "upscaled_worker.forkserver"),
            *("--control-fd", str(theirs.fileno()), "--parent-pid", str(os.getpid())),
            *([] if template else ["--no-template"]),
            *worker_argv,
        ]
        # In a session of its own: what a terminal or a host sends to our process group must not
        # reach the workers while we drain. numpy's thread pool starts at its import, and a fork
        # needs a single thread. What a library starts is to import nothing from the working
        # folder either. posix_spawn, for importing subprocess costs our start 10 ms.
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
        """What it has told since; None if it is gone. Raises `ValueError` if it tells something
        that it never should."""
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
        """Ask for a worker on these three descriptors. Raises `OSError` where it is gone.

        Its pid comes by `read`, as `{"spawn": number, "pid": pid}`.
        """
        request = encode_line({"spawn": number, "argv": argv, "env": env})
        socket.send_fds(self._control, [request], stdio)

    def close(self) -> None:
        """Let it go: it kills what is left below it, and ends."""
        self._control.close()

    def wait(self) -> int:
        """After `close`: until it has ended, killing it where it does not; its exit code, a
        negative signal number where it was killed."""
        end = time.monotonic() + _CLOSE_TIMEOUT_S
        while self._exit_code is None:
            self.reap()
            if time.monotonic() > end:
                kill_group(self.pid)
            time.sleep(0.002)
        return self._exit_code

    def reap(self) -> None:
        """Collect what has died below us: the fork server, or orphans that were handed up to us."""
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
    """What a fork server tells. Raises `ValueError` if it is none of its notices."""
    notice = decode_line(line)
    match notice:
        case {"template": bool()} | {"usage": True} | {"spawn": int(), "failed": str()}:
            return dict(notice)
        case {"spawn": int(), "pid": int(pid)} if 1 < pid < _PIDS:
            return dict(notice)
        case {"exited": int(pid), "status": int(status)} if 1 < pid < _PIDS and 0 <= status < 2**16:
            return dict(notice)
    raise ValueError(f"the fork server wrote {line[:_QUOTED_BYTES]!r}")
