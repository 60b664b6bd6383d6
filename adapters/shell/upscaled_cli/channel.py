"""The protocol over two pipes, for a host that blocks. Knows no process.

    host ── send ── one JSON line per message ──> daemon
    host <─ take ── reader thread <────────────── daemon

The reader reads always, so the daemon never waits for a host that is still sending. What a pipe
does not take in one piece is written by a second thread, because a Ctrl-C interrupts the host's
thread: it must not cut a line in two.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import selectors
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

from upscaled_cli.longline import LongLineSplitter, UnreadableLineError, lost_end
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES, READ_SIZE_BYTES

Message = dict[str, Any]

# Half a surrogate pair. U+DC80 to U+DCFF are left out: each stands for one byte of a file name
# that is not UTF-8, as `os.fsdecode` gives it.
_HALF_PAIR = re.compile("[\ud800-\udc7f\udd00-\udfff]")

# Lines that the daemon has not taken yet. Two of the largest fit; then `send` waits.
_UNSENT_LIMIT_BYTES = 2 * DEFAULT_LINE_LIMIT_BYTES


class RefusedError(JobError, ValueError):
    """Raised when a message cannot be sent. `code` is what a daemon would refuse it with."""


def line_of(message: Message) -> bytes:
    """The message as one line, newline included. Raises `RefusedError` if the protocol has no line
    for it: a daemon's refusal might not say which job it is about."""
    try:
        text = json.dumps(message, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise _too_deep() from None
    except (TypeError, ValueError) as error:
        # A set, bytes, a number that is not finite, a list that contains itself.
        raise RefusedError(ErrorCode.INVALID_JOB, f"a value cannot be in JSON: {error}") from None
    if half := _HALF_PAIR.search(text):
        raise RefusedError(
            ErrorCode.INVALID_JOB,
            f"a text has U+{ord(half[0]):04X}, half a surrogate pair, so it is cut or is not UTF-8",
        )
    # Only in a file name that is not UTF-8 something is left to escape, as JSON does it.
    line = text.encode(errors="backslashreplace")
    if len(line) > DEFAULT_LINE_LIMIT_BYTES:
        limit_mib = DEFAULT_LINE_LIMIT_BYTES // 2**20
        raise RefusedError(
            ErrorCode.LINE_TOO_LONG,
            f"a line has at most {limit_mib} MiB, and this one has {len(line)} bytes",
        )
    try:
        # What the daemon's own parser refuses: nesting beyond 1024 levels, a number past 1e308.
        orjson.loads(line if text.isascii() else text.encode(errors="replace"))
    except orjson.JSONDecodeError as error:
        if "ecursion" in str(error):
            raise _too_deep() from None
        raise RefusedError(ErrorCode.INVALID_JSON, f"a daemon cannot read it: {error}") from None
    return line + b"\n"


def _too_deep() -> RefusedError:
    return RefusedError(
        ErrorCode.INVALID_JSON, "a value is nested too deeply; the limit is 1024 levels"
    )


class Channel:
    """Sends and receives messages until either side closes its pipe.

    It owns both descriptors. `take` gets every message and `end` is called once after the last
    one, however the reading ends; both in the reader's thread. If the end of a job is in a line
    over the limit, `take` gets an error in its place.
    """

    def __init__(
        self, read_fd: int, write_fd: int, take: Callable[[Message], None], end: Callable[[], None]
    ) -> None:
        self._fds = [read_fd, write_fd]
        self._write_fd = write_fd
        self._take = take
        self._end = end
        self._changed = threading.Condition()
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._is_closed = False  # nothing more is to be sent
        self._is_broken = False  # nothing more can be sent
        self.fault: str | None = None  # why the reading ended, if the daemon did not end it
        for fd in self._fds:
            os.set_blocking(fd, False)
        self._threads = [
            threading.Thread(target=self._read_all, args=(read_fd,), daemon=True),
            threading.Thread(target=self._write_all, args=(write_fd,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def send(self, *lines: bytes) -> None:
        """Send what `line_of` made; waits only while very much is unsent.

        A daemon that is gone says so by the end of its stdout, after all that it said before. What
        it did not read is lost.
        """
        with self._changed:
            self.wait_for_room()
            if self._is_broken or self._is_closed:
                return
            if len(lines) == 1 and not self._unsent_bytes and self._write_at_once(lines[0]):
                return
            self._unsent.extend(lines)
            self._unsent_bytes += sum(map(len, lines))
            self._changed.notify_all()

    def wait_for_room(self) -> None:
        """Wait while very much is unsent."""
        with self._changed:
            while self._unsent_bytes > _UNSENT_LIMIT_BYTES and not self._is_broken:
                self._changed.wait()

    def close(self) -> None:
        """Send nothing after what was sent: the daemon finishes what it has, and ends."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def join(self, timeout_s: float) -> None:
        """Wait until both descriptors are closed, or for so long."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)

    def abandon(self) -> None:
        """In a forked child, which has neither thread: close its copies of the pipes."""
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds.clear()

    def _close(self, fd: int) -> None:
        self._fds.remove(fd)
        os.close(fd)

    def _read_all(self, fd: int) -> None:
        lines = LongLineSplitter()

        def take(found: list[bytes | None]) -> None:
            for line in found:
                message = lost_end(lines.heads.popleft()) if line is None else _message(line)
                if message is not None:
                    self._take(message)

        try:
            with contextlib.suppress(OSError):
                read_all(fd, lambda chunk: take(lines.feed(chunk)))
            take(lines.end())
        except UnreadableLineError as error:
            self.fault = str(error)
        finally:
            self._close(fd)
            self._end()

    def _write_all(self, fd: int) -> None:
        try:
            while (chunk := self._next_chunk()) is not None:
                _write(fd, chunk)
                with self._changed:
                    self._unsent_bytes -= len(chunk)
                    self._changed.notify_all()
        except OSError:
            pass  # the daemon is gone
        finally:
            with self._changed:
                self._is_broken = True
                self._changed.notify_all()
            self._close(fd)

    def _write_at_once(self, line: bytes) -> bool:
        """Write a short line without waiting for a thread; False if the pipe has no room.

        A pipe takes so few bytes as a whole or not at all, so nothing can interrupt this halfway.
        """
        if len(line) > select.PIPE_BUF:
            return False
        try:
            os.write(self._write_fd, line)
        except BlockingIOError:
            return False
        except OSError:  # the daemon is gone
            self._is_broken = True
            self._changed.notify_all()
        return True

    def _next_chunk(self) -> bytes | None:
        """All that is to be sent now; None if there will be no more."""
        with self._changed:
            while not self._unsent:
                if self._is_closed or self._is_broken:
                    return None
                self._changed.wait()
            chunk = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
            self._unsent.clear()
            return chunk


def _message(line: bytes) -> Message | None:
    """The message of a line. Hosts pass over what they do not understand; a daemon's log that
    strays here is that."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def read_all(fd: int, take: Callable[[bytes], None]) -> None:
    """Read a descriptor that does not block to its end.

    Waits by `selectors`, which gevent and eventlet replace: a plain read would stop every greenlet.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while True:
            try:
                chunk = os.read(fd, READ_SIZE_BYTES)
            except BlockingIOError:
                selector.select()
                continue
            if not chunk:
                return
            take(chunk)


def _write(fd: int, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            with selectors.DefaultSelector() as selector:
                selector.register(fd, selectors.EVENT_WRITE)
                selector.select()
