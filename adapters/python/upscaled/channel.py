"""The protocol over two pipes. Knows no process.

    host ── send ──────> one JSON line per message ──> daemon
    host <─ on_message ── reader thread <───────────── daemon

The reader reads always, so the daemon never waits for a host that is still sending. What a pipe
does not take in one piece is written by a second thread, because a Ctrl-C interrupts the host's
thread: it must not cut a line in two.
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
    """All but `on_room` and `on_input_lost`, which are the writer's, are called in one thread."""

    def on_message(self, message: Message) -> None:
        """Also an error of the channel's own, for a result or an error in a line over the limit."""

    def on_room(self) -> None:
        """There is room again, after `has_room` was false."""

    def on_input_lost(self) -> None:
        """Nothing more can be sent, though the other side may still send."""

    def on_end(self, fault: str | None) -> None:
        """Nothing more will come. With a fault the other side is to be ended. The last call."""


class Channel:
    """Sends and receives messages until either side closes its pipe. It owns both descriptors."""

    def __init__(self, read_fd: int, write_fd: int, listener: ChannelListener) -> None:
        self._fds = [read_fd, write_fd]
        self._write_fd = write_fd
        self._listener = listener
        self._stop = StopEvent()
        self._changed = threading.Condition()
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self._is_closed = False  # nothing more is to be sent
        self._is_broken = False  # nothing more can be sent
        for fd in self._fds:
            os.set_blocking(fd, False)
        self._threads = [
            threading.Thread(target=self._read_all, args=(read_fd,), name="upscaled-reader"),
            threading.Thread(target=self._write_all, args=(write_fd,), name="upscaled-writer"),
        ]

    def start(self) -> None:
        """From now on the listener is called."""
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    @property
    def has_room(self) -> bool:
        """Whether more can be sent without piling it up."""
        return not (self._unsent_bytes or self._is_closed or self._is_broken)

    @property
    def is_read_here(self) -> bool:
        """Whether the calling thread is the reader, which must not wait for a message."""
        return threading.current_thread() is self._threads[0]

    def send(self, line: bytes) -> None:
        """Send one line; never waits. What the daemon does not read is lost: the end of its stdout
        tells that it is gone, after all that it said before."""
        with self._changed:
            if self._is_broken or self._is_closed:
                return
            if not self._unsent_bytes and self._write_at_once(line):
                return
            self._unsent.append(line)
            self._unsent_bytes += len(line)
            self._changed.notify_all()

    def close(self) -> None:
        """Send nothing after what was sent: the daemon finishes what it has, and ends."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Read and write no more, whoever holds the other ends."""
        with self._changed:
            self._is_broken = True
            self._changed.notify_all()
        self._stop.set()

    def join(self, timeout_s: float) -> None:
        """Wait until both descriptors are closed, or for so long."""
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout_s)
        if not self._fds:
            self._stop.close()

    def forget(self) -> None:
        """In a forked child, which has neither thread: close its copies of the pipes."""
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

        A pipe takes so few bytes as a whole or not at all, so nothing can interrupt this halfway.
        """
        if len(line) > select.PIPE_BUF:
            return False
        try:
            os.write(self._write_fd, line)
        except BlockingIOError:
            return False
        except OSError:  # the daemon reads no more: the writer tells
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
    """From the bytes of a daemon to its messages. Raises `UnreadableLineError`."""

    def __init__(self, on_message: Callable[[Message], None]) -> None:
        self._on_message = on_message
        self._lines = LongLineSplitter()

    def feed(self, chunk: bytes) -> None:
        """The next bytes."""
        self._take(self._lines.feed(chunk))

    def end(self) -> None:
        """No more will come: the last line may lack its newline."""
        self._take(self._lines.end())

    def _take(self, found: list[bytes | None]) -> None:
        for line in found:
            message = lost_end(self._lines.heads.popleft()) if line is None else _message(line)
            if message is not None:
                self._on_message(message)


class StopEvent:
    """Wakes the threads that wait for a descriptor."""

    def __init__(self) -> None:
        self._pipe: tuple[int, int] | None = os.pipe()
        self._lock = threading.Lock()
        self.is_set = False

    def set(self) -> None:
        """Wake them, for good: nothing reads the pipe."""
        with self._lock:
            if self._pipe is not None and not self.is_set:
                os.write(self._pipe[1], b"1")
            self.is_set = True

    def register(self, selector: selectors.BaseSelector) -> None:
        """Have the selector wait for this too."""
        if self._pipe is not None:
            selector.register(self._pipe[0], selectors.EVENT_READ)

    def close(self) -> None:
        """Once no thread waits any more."""
        with self._lock:
            self.forget()

    def forget(self) -> None:
        """In a forked child, where a thread that it does not have may hold the lock."""
        if self._pipe is not None:
            for fd in self._pipe:
                os.close(fd)
            self._pipe = None


def read_all(fd: int, take: Callable[[bytes], None], stop: StopEvent) -> None:
    """Read a descriptor that does not block to its end, or until it is stopped.

    Waits by `selectors`, which gevent and eventlet replace: a plain read would stop every greenlet.
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
    """The message of a line. Hosts pass over what they do not understand; a daemon's log that
    strays here is that."""
    try:
        message = decode_line(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None
