"""A channel that the event loop reads, not a thread of its own.

So a message needs no switch between threads, and a busy loop keeps the interpreter lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading

from upscaled.channel import Channel, ChannelListener, MessageReader
from upscaled.longline import UnreadableLineError
from upscaled_protocol.lines import READ_SIZE_BYTES


class LoopChannel(Channel):
    """Make and start it in the running loop, which then calls `on_message` and `on_end`."""

    def __init__(self, read_fd: int, write_fd: int, listener: ChannelListener) -> None:
        super().__init__(read_fd, write_fd, listener)
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.current_thread()
        self._read_fd = read_fd
        self._reader = MessageReader(listener.on_message)
        self._has_ended = False
        del self._threads[0]

    def start(self) -> None:
        """Start to call the listener."""
        super().start()
        self._loop.add_reader(self._read_fd, self._read)

    @property
    def is_read_here(self) -> bool:
        """True in the thread of the loop."""
        return threading.current_thread() is self._loop_thread

    def abandon(self) -> None:
        """Read and write no more, even if a process still has the other ends open."""
        super().abandon()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._end, None)

    def _read(self) -> None:
        try:
            chunk = os.read(self._read_fd, READ_SIZE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        try:
            if chunk:
                self._reader.feed(chunk)
                return
            self._reader.end()
        except UnreadableLineError as error:
            self._end(str(error))
        else:
            self._end(None)

    def _end(self, fault: str | None) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        self._loop.remove_reader(self._read_fd)
        self._close_fd(self._read_fd)
        self._listener.on_end(fault)
