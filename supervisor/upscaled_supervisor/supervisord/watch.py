"""The event listener of supervisord: restarts a server that does not answer or is too large.

supervisord only sees that a process exists. This listener asks the server itself, on every TICK_5
event:

    watching ── 3 checks in a row without an answer ──> aborting: SIGABRT writes the stacks to
       │                                                 stderr, SIGKILL after 2 s
       ├── more memory than the limit ──> draining: stopped with SIGTERM, which finishes jobs, and
       │                                  started again when it has stopped
       └── PROCESS_STATE_FATAL (it could not be started) ──> writes the mark, ends supervisord

supervisord itself restarts an aborted program. While it shuts down it refuses requests, which is no
error here.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol, cast
from xmlrpc.client import Fault

from upscaled_protocol.optionvalues import above_zero
from upscaled_supervisor.supervisord.pid1 import FAILED_MARK

_MISSED_CHECKS = 3
# A check must end before the next tick.
_ANSWER_TIMEOUT_S = 3.0
# Time for faulthandler to write the stacks.
_ABORT_GRACE_S = 2.0
_MIB = 1024 * 1024

_EXAMPLES = """\
examples, as `command` of an [eventlistener:...] with `events = PROCESS_STATE_FATAL,TICK_5`:
  python -m upscaled_supervisor.supervisord.watch upscaled
  python -m upscaled_supervisor.supervisord.watch upscaled --memory-limit-mb 12000
  python -m upscaled_supervisor.supervisord.watch upscaled --url http://127.0.0.1:9000/api/health/live
"""


class Programs(Protocol):
    """The part of supervisord's XML-RPC interface that is used (`supervisor.rpcinterface`)."""

    def getProcessInfo(self, name: str) -> dict[str, Any]:  # noqa: N802 - supervisord's name
        """State and pid."""

    def signalProcess(self, name: str, signum: str) -> bool:  # noqa: N802
        """Send a signal."""

    def stopProcess(self, name: str, wait: bool) -> bool:  # noqa: N802
        """Begin to stop it."""

    def startProcess(self, name: str, wait: bool) -> bool:  # noqa: N802
        """Start it."""


class Watch:
    """Restarts one program of supervisord if it does not answer or uses too much memory."""

    def __init__(
        self, programs: Programs, program: str, url: str, memory_limit_mb: float | None
    ) -> None:
        self._programs = programs
        self._program = program
        self._url = url
        self._limit_mb = memory_limit_mb
        self._missed = 0
        self._is_draining = False

    def handle_tick(self) -> None:
        """Check the program once. Raises `xmlrpc.client.Fault` if supervisord refuses."""
        info = self._programs.getProcessInfo(self._program)
        state, pid = info["statename"], info["pid"]
        if self._is_draining and state in ("STOPPED", "EXITED"):
            self._is_draining = False
            self._programs.startProcess(self._program, False)
            _print(f"{self._program} was started again")
        if state != "RUNNING":
            self._missed = 0
            return
        self._is_draining = False
        self._missed = 0 if _answers(self._url) else self._missed + 1
        if self._missed == _MISSED_CHECKS:
            self._missed = 0
            self._abort(pid)
            return
        used_mb = _used_mb(pid)
        if self._limit_mb is not None and used_mb > self._limit_mb:
            _print(
                f"{self._program} uses {used_mb:.0f} MB, more than the limit of "
                f"{self._limit_mb:.0f} MB: it finishes its jobs and is started again"
            )
            self._is_draining = True
            self._programs.stopProcess(self._program, False)

    def _abort(self, pid: int) -> None:
        _print(
            f"{self._program} (pid {pid}) gave no answer at {self._url} in {_MISSED_CHECKS} checks:"
            " it is killed, and supervisord starts it again"
        )
        self._programs.signalProcess(self._program, "ABRT")
        deadline = time.monotonic() + _ABORT_GRACE_S
        while time.monotonic() < deadline:
            if not self._is_running(pid):
                return
            time.sleep(0.1)
        # A stopped process handles no SIGABRT.
        self._programs.signalProcess(self._program, "KILL")

    def _is_running(self, pid: int) -> bool:
        info = self._programs.getProcessInfo(self._program)
        return bool(info["pid"] == pid and info["statename"] == "RUNNING")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_TIMEOUT_S) as answer:  # noqa: S310 - ours
            return bool(answer.status == 200)
    except (OSError, HTTPException):  # urllib's own errors are an OSError
        return False


def _used_mb(pid: int) -> float:
    """Resident memory of a process and all its descendants."""
    import psutil

    used = 0
    try:
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            used += one.memory_info().rss
    except psutil.Error:  # it exits at this moment
        pass
    return used / _MIB


def _print(text: str) -> None:
    sys.stderr.write(f"upscaled watch: {text}\n")
    sys.stderr.flush()


def _end_supervisord(program: str) -> None:
    """The program cannot be started: write the mark for `pid1`, and end supervisord."""
    _print(f"{program} could not be started: supervisord ends")
    mark = os.environ.get(FAILED_MARK)
    if mark:
        Path(mark).write_text(program, "utf-8")
    os.kill(os.getppid(), signal.SIGTERM)


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse. Raises `SystemExit` (2) with usage on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m upscaled_supervisor.supervisord.watch",
        description="Event listener of supervisord: restarts a server that does not answer or is "
        "too large.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    port = os.environ.get("UPSCALED_SERVER_PORT") or os.environ.get("PORT") or "8080"
    parser.add_argument("program", help="its name in supervisord's configuration")
    parser.add_argument(
        "--url",
        default=f"http://127.0.0.1:{port}/api/health/live",
        help="address that must answer 200 (default: /api/health/live at PORT, else 8080)",
    )
    parser.add_argument(
        "--memory-limit-mb",
        type=above_zero,
        default=os.environ.get("WATCH_MEMORY_LIMIT_MB") or None,
        help="limit for the server and its descendants (default: WATCH_MEMORY_LIMIT_MB, else none)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Handle supervisord's events until it closes our stdin."""
    arguments = read_arguments(argv)
    from supervisor.childutils import getRPCInterface, listener

    rpc = getRPCInterface(os.environ).supervisor
    watch = Watch(
        cast("Programs", rpc), arguments.program, arguments.url, arguments.memory_limit_mb
    )
    while True:
        try:
            headers, payload = listener.wait()
        except KeyError:  # the end of our stdin, read as an event without headers
            return 0
        if headers["eventname"] == "PROCESS_STATE_FATAL":
            if f"processname:{arguments.program} " in f"{payload} ":
                _end_supervisord(arguments.program)
        else:
            try:
                watch.handle_tick()
            except (Fault, OSError) as error:
                # While supervisord shuts down it refuses everything.
                _print(f"supervisord did not act: {error}")
        listener.ok()


if __name__ == "__main__":
    sys.exit(main())
