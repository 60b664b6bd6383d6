"""The protocol over two pipes, without a process.

    host ── send ──────> one JSON line per message ──> daemon
    host <─ on_message ── reader thread <───────────── daemon

The reader never stops, so the daemon never waits for a host that is still sending. If a pipe does
not take a line in one piece, a second thread writes it: a Ctrl-C interrupts the host's thread, and
must not cut a line in two.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from upscaled.longline import LongLineSplitter, UnreadableLineError, lost_end
from upscaled.messages import Message
from upscaled_protocol.lines import READ_SIZE_BYTES, decode_line


class ChannelListener(Protocol):
    """The reader's thread calls `on_message` and `on_end`, the writer's thread the other two."""

    def on_message(self, message: Message) -> None:
        """A message; or the channel's own error, for a result or an error over the line limit."""

    def on_room(self) -> None:
        """There is room again, after `has_room` was false."""

    def on_input_lost(self) -> None:
        """Nothing more can be sent, but the other side may still send."""

    def on_end(self, fault: str | None) -> None:
        """Nothing more will come. With a fault, end the other side. The last call."""


class Channel:
    """Sends and receives messages until one side closes its pipe. It owns both descriptors."""

    def __init__(self, read_fd: int, write_fd: int, listener: ChannelListener) -> None:
        self._fds = [read_fd, write_fd]
        self._write_fd = write_fd
        self._listener = listener
        self._stop = StopEvent()
        self._changed = threading.Condition()
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._is_closed = False  # the host sends nothing more
        self._is_broken = False  # nothing more can be sent
        for fd in self._fds:
            os.set_blocking(fd, False)
        self._threads = [
            threading.Thread(target=self._read_all, args=(read_fd,), name="upscaled-reader"),
            threading.Thread(target=self._write_all, args=(write_fd,), name="upscaled-writer"),
        ]

    def start(self) -> None:
        """Start to call the listener."""
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    @property
    def has_room(self) -> bool:
        """True if the next line does not have to wait behind others."""
        return not (self._unsent_bytes or self._is_closed or self._is_broken)

    @property
    def is_read_here(self) -> bool:
        """True in the reader's thread, which must not wait for a message."""
        return threading.current_thread() is self._threads[0]

    def send(self, line: bytes) -> None:
        """Send one line; never waits. A line that the daemon does not read is lost. The end of its
        stdout reports that it is gone, after all of its messages."""
        with self._changed:
            if self._is_broken or self._is_closed:
                return
            if not self._unsent_bytes and self._write_at_once(line):
                return
            self._unsent.append(line)
            self._unsent_bytes += len(line)
            self._changed.notify_all()

    def close(self) -> None:
        """End the daemon's input after the sent lines: it finishes its jobs and exits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Read and write no more, even if a process still has the other ends open."""
        with self._changed:
            self._is_broken = True
            self._changed.notify_all()
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        """Wait until both descriptors are closed, at most for this time."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)
        if not self._fds:
            self._stop.close()

    def forget(self) -> None:
        """Close the copies of the pipes in a forked child, which has neither thread."""
        for fd in self._fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        self._fds.clear()
        self._stop.forget()

    def _close_fd(self, fd: int) -> None:
        self._fds.remove(fd)
        os.close(fd)

    def _read_all(self, fd: int) -> None:
        reader = MessageReader(self._listener.on_message)
        fault: str | None = None
        try:
            with contextlib.suppress(OSError):
                read_all(fd, reader.feed, self._stop)
            reader.end()
        except UnreadableLineError as error:
            fault = str(error)
        finally:
            self._close_fd(fd)
            self._listener.on_end(fault)

    def _write_all(self, fd: int) -> None:
        is_lost = False
        try:
            while (chunk := self._next_chunk()) is not None:
                self._write(fd, chunk)
                with self._changed:
                    self._unsent_bytes -= len(chunk)
                    has_room = not self._unsent_bytes
                if has_room:
                    self._listener.on_room()
        except OSError:
            is_lost = True
        finally:
            with self._changed:
                is_lost = (is_lost or self._is_broken) and not self._is_closed
                self._is_broken = True
            self._close_fd(fd)
            if is_lost:
                self._listener.on_input_lost()

    def _write_at_once(self, line: bytes) -> bool:
        """Write a short line without waiting for a thread; False if the pipe has no room.

        A pipe takes this few bytes as a whole or not, so a signal cannot cut the line.
        """
        if len(line) > select.PIPE_BUF:
            return False
        try:
            os.write(self._write_fd, line)
        except BlockingIOError:
            return False
        except OSError:  # the daemon reads no more: the writer reports it
            self._is_broken = True
            self._changed.notify_all()
        return True

    def _next_chunk(self) -> bytes | None:
        """All unsent lines; None if no more will come."""
        with self._changed:
            while not self._unsent:
                if self._is_closed or self._is_broken:
                    return None
                self._changed.wait()
            chunk = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
            self._unsent.clear()
            return chunk

    def _write(self, fd: int, chunk: bytes) -> None:
        rest = memoryview(chunk)
        with selectors.DefaultSelector() as selector:
            selector.register(fd, selectors.EVENT_WRITE)
            self._stop.register(selector)
            while rest:
                try:
                    rest = rest[os.write(fd, rest) :]
                except BlockingIOError:
                    selector.select()
                    if self._stop.is_set:
                        raise BrokenPipeError from None


class MessageReader:
    """Makes messages of a daemon's bytes. Raises `UnreadableLineError`."""

    def __init__(self, on_message: Callable[[Message], None]) -> None:
        self._on_message = on_message
        self._lines = LongLineSplitter()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._take(self._lines.feed(chunk))

    def end(self) -> None:
        """Take the last line, which may lack its newline."""
        self._take(self._lines.end())

    def _take(self, found: list[bytes | None]) -> None:
        for line in found:
            message = lost_end(self._lines.heads.popleft()) if line is None else _message(line)
            if message is not None:
                self._on_message(message)


class StopEvent:
    """Wakes threads that wait for a descriptor."""

    def __init__(self) -> None:
        self._pipe: tuple[int, int] | None = os.pipe()
        self._lock = threading.Lock()
        self.is_set = False

    def set(self) -> None:
        """Wake them now and at each later wait: nothing reads the pipe."""
        with self._lock:
            if self._pipe is not None and not self.is_set:
                os.write(self._pipe[1], b"1")
            self.is_set = True

    def register(self, selector: selectors.BaseSelector) -> None:
        """Let the selector wait for this event too."""
        if self._pipe is not None:
            selector.register(self._pipe[0], selectors.EVENT_READ)

    def close(self) -> None:
        """Close the pipe, once no thread waits any more."""
        with self._lock:
            self.forget()

    def forget(self) -> None:
        """Close the pipe without the lock, which a thread of the parent may hold after a fork."""
        if self._pipe is not None:
            for fd in self._pipe:
                os.close(fd)
            self._pipe = None


def read_all(fd: int, take: Callable[[bytes], None], stop: StopEvent) -> None:
    """Read a non-blocking descriptor to its end, or until the stop.

    It waits by `selectors`, which gevent and eventlet replace. A plain read would stop every
    greenlet.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        stop.register(selector)
        while not stop.is_set:
            try:
                chunk = os.read(fd, READ_SIZE_BYTES)
            except BlockingIOError:
                selector.select()
                continue
            if not chunk:
                return
            take(chunk)


def _message(line: bytes) -> Message | None:
    """The message of a line; None if it is no message, such as a log line: hosts ignore it."""
    try:
        message = decode_line(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None
