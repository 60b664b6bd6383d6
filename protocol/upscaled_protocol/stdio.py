"""Claims stdin and stdout, so that only protocol lines can reach the host.

Call `claim_stdio` before any heavy import: libraries print while they load.
"""

from __future__ import annotations

import fcntl
import io
import os
import select
import socket
import stat
import sys
import weakref
from typing import Any, NamedTuple

# Duplicates get this number or a higher one: lower ones are stdio to every program.
_LOWEST_PRIVATE_FD = 3


class Wire(NamedTuple):
    """The host's two streams, as descriptors that no other code in this process uses."""

    read_fd: int
    write_fd: int


def claim_stdio() -> Wire:
    """Take fds 0 and 1 for the protocol alone. Call once.

    Both are duplicated above fd 2, close-on-exec, so that no program started later inherits them
    (a fork without an exec does). Then fd 0 reads /dev/null, and fd 1 is a copy of fd 2: what
    Python, a C library or a subprocess prints goes to stderr, or is lost if stderr is closed.

    Raises `SystemExit` (2), with the reason on stderr, if the host has closed stdin or stdout.
    """
    wire = Wire(_private(0), _private(1))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    if null == 2:  # stderr was closed: the next file that is opened would get its number
        os.set_inheritable(2, True)
    else:
        os.close(null)
    os.dup2(2, 1)
    # New objects, because the old ones may have been made for files of another kind, or be None.
    sys.stdout, sys.stderr = _printer(1), _printer(2)
    return wire


def _private(fd: int) -> int:
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LOWEST_PRIVATE_FD)
    except OSError:
        name, instead = ("stdin", "</dev/null") if fd == 0 else ("stdout", ">/dev/null")
        if sys.stderr is not None:  # else `print` would write to stdout
            print(f"{name} is closed, and jobs come and go there: give {instead}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None


class _Lossy(io.FileIO):
    """Drops what cannot be written, because the disk is full, or the reader is gone or slow."""

    def write(self, data: Any) -> int:
        try:
            taken = super().write(data)
        except OSError:
            taken = None
        return len(data) if taken is None else taken


def _printer(fd: int) -> io.TextIOWrapper:
    """A text stream on which no `print` of a library fails a job: an unwritable line is lost, and a
    file name that the locale cannot show is escaped. Line-buffered, to stay in order with the log
    lines."""
    raw = io.BufferedWriter(_Lossy(fd, "w", closefd=False))
    return io.TextIOWrapper(raw, errors="backslashreplace", line_buffering=True)


class NonBlockingWriter:
    """Writes as much as a descriptor takes at once, without setting O_NONBLOCK on it.

    The flag belongs to the open file, which a shell or the host may share, and their writes would
    fail. A pipe that polls writable takes at least PIPE_BUF bytes; a socket knows MSG_DONTWAIT.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        mode = os.fstat(fd).st_mode
        self._socket = _borrow_socket(self, fd) if stat.S_ISSOCK(mode) else None
        self._regular = stat.S_ISREG(mode)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, data: bytes | memoryview) -> int:
        """Bytes taken; 0 if the reader is slow. Raises `OSError` (EPIPE) if the reader is gone."""
        try:
            if self._socket is not None:
                return self._socket.send(data, socket.MSG_DONTWAIT)
            if not self._regular:
                events = self._poll.poll(0)
                if not events:
                    return 0
                if events[0][1] & select.POLLERR and not events[0][1] & select.POLLOUT:
                    raise BrokenPipeError("the reader is gone")
                data = data[: select.PIPE_BUF]
            return os.write(self.fd, data)
        except BlockingIOError:  # a full socket, or a pipe on which another program set O_NONBLOCK
            return 0


def _borrow_socket(borrower: object, fd: int) -> socket.socket:
    """A socket object on `fd` that does not close `fd`, because its owner does. A duplicate of `fd`
    would keep the connection open after the owner has closed it."""
    borrowed = socket.socket(fileno=fd)
    weakref.finalize(borrower, borrowed.detach)
    return borrowed
