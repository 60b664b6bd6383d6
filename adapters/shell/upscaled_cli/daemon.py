"""One daemon process: its pipes, its last words, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence

from upscaled_cli.channel import Channel, Message, read_all

_STDERR_TAIL_BYTES = 4000

# From a daemon's end to the end of its stderr: its workers follow it as soon as their pipes close.
_LAST_WORDS_TIMEOUT_S = 2.0


class Daemon:
    """A daemon that was started. Raises `OSError` if it cannot be."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        show_log: bool,
        take: Callable[[Message], None],
        end: Callable[[], None],
    ) -> None:
        self._is_killed = False
        self._words = b""
        fds: list[int] = []
        try:
            for _ in range(2 if show_log else 3):
                fds += os.pipe()
            stdin_read, stdin_write, stdout_read, stdout_write, *log = fds
            self._process = subprocess.Popen(
                command,
                stdin=stdin_read,
                stdout=stdout_write,
                stderr=None if show_log else log[1],
                # A terminal's Ctrl-C is for us alone: we cancel, and the daemon cleans up.
                start_new_session=True,
            )
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        for fd in (stdin_read, stdout_write, *log[1:]):
            os.close(fd)
        self._log_fds = log[:1]
        self._log_reader = threading.Thread(target=self._read_log, daemon=True)
        self._log_reader.start()
        self.channel = Channel(stdout_read, stdin_write, take, end)

    @property
    def pid(self) -> int:
        """Its process, which leads a group of its own."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status; None while it runs, or has not been waited for."""
        return self._process.returncode

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False if it does not come in time."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End it now. Its workers follow it: their pipes close."""
        if not self._is_killed:  # later another group may have its number
            self._is_killed = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def last_words(self) -> str:
        """The end of what it wrote to stderr; empty if that was shown. Kill it first."""
        self._log_reader.join(_LAST_WORDS_TIMEOUT_S)
        return self._words.decode(errors="replace").strip()

    def join(self) -> None:
        """After its end: wait until its pipes are closed here too."""
        self.channel.join(_LAST_WORDS_TIMEOUT_S)
        self._log_reader.join(_LAST_WORDS_TIMEOUT_S)

    def abandon(self) -> None:
        """In a forked child: it is the parent's daemon. Close the copies of its pipes, so that it
        still notices the parent's end."""
        self.channel.abandon()
        for fd in self._log_fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._process.returncode = 0  # nothing here is to wait for it

    def _read_log(self) -> None:
        for fd in self._log_fds[:]:
            os.set_blocking(fd, False)
            try:
                with contextlib.suppress(OSError):
                    read_all(fd, self._keep_words)
            finally:
                self._log_fds.remove(fd)
                os.close(fd)

    def _keep_words(self, chunk: bytes) -> None:
        self._words = (self._words + chunk)[-_STDERR_TAIL_BYTES:]
