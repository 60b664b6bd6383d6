"""The supervisor's ends of a worker's stdin, stdout and stderr."""

from __future__ import annotations

import fcntl
import os
import sys

from upscaled_protocol.lines import READ_SIZE_BYTES, LineSplitter
from upscaled_protocol.outbox import Outbox

_MAX_STDERR_LINE_BYTES = 64 * 1024
# A result may hold its picture in base64, which has no limit; no picture takes that much.
MAX_STDOUT_LINE_BYTES = 4 * 2**30


class Pipes:
    """Three descriptors, none of which ever blocks."""

    def __init__(self, stdin_fd: int, stdout_fd: int, stderr_fd: int) -> None:
        for fd in (stdin_fd, stdout_fd, stderr_fd):
            os.set_blocking(fd, False)
        self.stdout_fd = stdout_fd
        self.stderr_fd = stderr_fd
        self.outbox = Outbox(_Writer(stdin_fd))
        self._stdout = _StdoutLines(MAX_STDOUT_LINE_BYTES)
        self._stderr = LineSplitter(_MAX_STDERR_LINE_BYTES)

    @property
    def fds(self) -> tuple[int, int, int]:
        """All three, stdin first."""
        return self.outbox.fd, self.stdout_fd, self.stderr_fd

    def read_stdout(self) -> tuple[list[bytes], bool]:
        """The protocol lines that have arrived, and whether the stream has ended."""
        return _read(self.stdout_fd, self._stdout)

    @property
    def has_endless_line(self) -> bool:
        """True once a line on stdout has passed the limit, even if it has not ended."""
        return self._stdout.has_dropped

    def read_stderr(self) -> tuple[list[bytes], bool]:
        """The lines that the worker has logged and printed, and whether the stream has ended."""
        return _read(self.stderr_fd, self._stderr)

    def flush(self) -> None:
        """Write as much as stdin takes. If the worker has exited, that is reported elsewhere."""
        try:
            self.outbox.flush()
        except OSError:
            self.outbox.clear()

    def close(self) -> None:
        """Close all three."""
        for fd in self.fds:
            os.close(fd)


def open_pipes() -> tuple[list[int], list[int]]:
    """A worker's stdin, stdout and stderr, and our ends of them in the same order.

    Raises `OSError` if this process has too many open files.
    """
    fds: list[int] = []
    try:
        for _ in range(3):
            fds += os.pipe()
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    stdin, to_child, from_child, stdout, log, stderr = fds
    return [stdin, stdout, stderr], [to_child, from_child, log]


class _StdoutLines(LineSplitter):
    has_dropped = False

    def _drop(self, part: bytes | bytearray) -> None:  # noqa: ARG002
        self.has_dropped = True


class _Writer:
    """The write end of a pipe that no other process shares, so O_NONBLOCK affects only us."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self, data: bytes | memoryview) -> int:
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0


def _read(fd: int, lines: LineSplitter) -> tuple[list[bytes], bool]:
    """Read what the pipe holds. After the worker's exit these are all of its last lines.

    Not until the pipe is empty: a worker that writes as fast as it is read would keep the
    supervisor from all other work.
    """
    found: list[bytes] = []
    left = _capacity_bytes(fd)
    while left >= 0:
        try:
            chunk = os.read(fd, READ_SIZE_BYTES)
        except BlockingIOError:
            return found, False
        found += [line for line in lines.feed(chunk) if line is not None]
        if not chunk:
            return found, True
        if len(chunk) < READ_SIZE_BYTES:
            return found, False
        left -= len(chunk)
    return found, False


def _capacity_bytes(fd: int) -> int:
    """The most bytes that a pipe holds: 16 pages, unless the user has too many pipes (pipe(7))."""
    if sys.platform == "linux":
        return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    return READ_SIZE_BYTES
