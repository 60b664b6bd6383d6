"""One daemon process: its pipes, its process group, its end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from upscaled.channel import Channel, ChannelListener, StopEvent, read_all
from upscaled.errors import DaemonGoneError
from upscaled.messages import Message
from upscaled.timers import Timer, Timers
from upscaled_protocol.lines import LineSplitter

# From the end of stdout to the exit of the process, or the reverse, before both are forced.
_END_S = 1.0

# From SIGTERM to SIGKILL. It is short, because the daemon had its time at the end of its input.
_TERM_S = 2.0

# No line of the daemon's log is longer.
_LOG_LINE_LIMIT_BYTES = 1024 * 1024

# The last lines of stderr for an error: enough for a traceback.
_LAST_LINES = 20

_LOG = logging.getLogger("upscaled")


class DaemonListener(Protocol):
    """A daemon's reports. `on_gone` is the last call."""

    def on_message(self, message: Message) -> None:
        """A message of the daemon."""

    def on_room(self) -> None:
        """There is room again to send more."""

    def on_input_lost(self) -> None:
        """It reads no more, but still runs."""

    def on_gone(self, error: DaemonGoneError) -> None:
        """It has ended, and all of its messages were read."""


class Daemon:
    """A started daemon. Raises `OSError` if it cannot be started."""

    def __init__(
        self,
        command: Sequence[str],
        listener: DaemonListener,
        timers: Timers,
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        show_log: bool = False,
        make_channel: Callable[[int, int, ChannelListener], Channel] = Channel,
    ) -> None:
        self._listener = listener
        self._timers = timers
        self._lock = threading.RLock()
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._fault: str | None = None
        self._waited_for = {"exit", "stdout", *(() if show_log else ("stderr",))}
        self._end_timer: Timer | None = None
        self._deadline: Timer | None = None  # starts with the end of its input
        self._is_killed = False
        fds: list[int] = []
        try:
            for _ in range(2 if show_log else 3):
                fds += os.pipe()
            stdin_read, stdin_write, stdout_read, stdout_write, *log = fds
            self._process = subprocess.Popen(
                command,
                stdin=stdin_read,
                stdout=stdout_write,
                stderr=log[1] if log else None,
                cwd=cwd,
                env=env,
                # A process group of its own: a terminal's Ctrl-C reaches only the host, and the
                # whole group can be killed.
                start_new_session=True,
            )
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        for fd in (stdin_read, stdout_write, *log[1:]):
            os.close(fd)
        self._log_fds = log[:1]
        self._stop = StopEvent()
        self.channel = make_channel(stdout_read, stdin_write, self)
        self._threads = [
            threading.Thread(target=self._wait_exit, name="upscaled-exit", daemon=True),
            threading.Thread(target=self._read_log, name="upscaled-log", daemon=True),
        ]

    def start(self) -> None:
        """Start to call the listener."""
        self.channel.start()
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """The id of its process, which leads a process group."""
        return self._process.pid

    def end_input(self, timeout_s: float) -> None:
        """Let it finish its jobs. After this time it gets SIGTERM, and then SIGKILL."""
        self.channel.close()
        self._wait_until(timeout_s, self.terminate)

    def _wait_until(self, timeout_s: float, then: Callable[[], None]) -> None:
        with self._lock:
            if self._deadline is not None:
                self._deadline.cancel()
            if self._waited_for:
                self._deadline = self._timers.start(timeout_s, then)

    def terminate(self, timeout_s: float = _TERM_S) -> None:
        """Send SIGTERM, so that it finishes what it can within its own grace. After this time it
        gets SIGKILL."""
        with self._lock:
            if "exit" in self._waited_for:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGTERM)
        self._wait_until(timeout_s, self.kill)

    def kill(self) -> None:
        """Kill it and every process that it started."""
        with self._lock:
            if self._is_killed:
                return
            # The ids are still this process's and this group's: its exit was not waited for before,
            # or the group is not empty.
            self._is_killed = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def forget(self) -> None:
        """Close the copies of the pipes in a forked child, so that the daemon still notices the
        parent's end."""
        self.channel.forget()
        for fd in self._log_fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._stop.forget()
        self._process.returncode = 0  # so that nothing in the child waits for it

    # --- the channel's listener ---------------------------------------------------------------

    def on_message(self, message: Message) -> None:
        """Forward it."""
        self._listener.on_message(message)

    def on_room(self) -> None:
        """Forward it."""
        self._listener.on_room()

    def on_input_lost(self) -> None:
        """Forward it."""
        self._listener.on_input_lost()

    def on_end(self, fault: str | None) -> None:
        """Its stdout has ended, or cannot be read any more."""
        self._fault = fault
        if fault is not None:
            self.kill()
        self._note_end("stdout")

    # --- its end ------------------------------------------------------------------------------

    def _wait_exit(self) -> None:
        self._process.wait()
        # Processes that it leaves behind hold the pipes open, and nobody uses their work.
        self.kill()
        self._note_end("exit")

    def _note_end(self, what: str) -> None:
        with self._lock:
            if not self._waited_for:
                return
            self._waited_for.discard(what)
            is_gone = not self._waited_for
            if is_gone:
                for timer in (self._end_timer, self._deadline):
                    if timer is not None:
                        timer.cancel()
            elif self._end_timer is None:
                self._end_timer = self._timers.start(_END_S, self._end_by_force)
        if is_gone:
            self._report_gone()

    def _end_by_force(self) -> None:
        self.kill()
        # A process that left the group may hold the pipes.
        self.channel.abandon()
        self._stop.set()

    def _report_gone(self) -> None:
        self.channel.close()
        self._listener.on_gone(self._error())
        # Once the reader and the writer have ended, which may be the thread that calls this.
        self._timers.start(0.0, self._release)

    def _release(self) -> None:
        self.channel.join(_END_S)
        for thread in self._threads:
            thread.join(_END_S)
        if not self._log_fds:
            self._stop.close()

    def _error(self) -> DaemonGoneError:
        status = self._process.returncode
        how = f"ended with status {status}"
        if status is not None and status < 0:
            with contextlib.suppress(ValueError):
                how = f"ended by {signal.Signals(-status).name}"
        if self._fault is not None:
            how = f"was ended, because {self._fault}"
        lines = "".join(f"\n{line}" for line in self._last_lines)
        text = f"the daemon {how}" + (f"; its last lines on stderr:{lines}" if lines else "")
        return DaemonGoneError(text, status=status)

    # --- its log ------------------------------------------------------------------------------

    def _read_log(self) -> None:
        lines = LineSplitter(_LOG_LINE_LIMIT_BYTES)

        def take(chunk: bytes) -> None:
            for line in lines.feed(chunk):
                self._take_log(line or b"(a line of more than 1 MiB)")

        for fd in self._log_fds[:]:
            os.set_blocking(fd, False)
            try:
                with contextlib.suppress(OSError):
                    read_all(fd, take, self._stop)
                take(b"\n")
            finally:
                self._log_fds.remove(fd)
                os.close(fd)
                self._note_end("stderr")

    def _take_log(self, line: bytes) -> None:
        text = line.decode(errors="replace")
        self._last_lines.append(text)
        if not _LOG.isEnabledFor(logging.DEBUG):
            return
        level = "info"
        with contextlib.suppress(ValueError, AttributeError):
            level = str(json.loads(text).get("level", level))
        _LOG.log(logging.getLevelNamesMapping().get(level.upper(), logging.INFO), "%s", text)
