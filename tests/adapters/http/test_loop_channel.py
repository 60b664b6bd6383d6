"""A channel that the event loop reads."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from upscaled_http.loopchannel import LoopChannel


class Listener:
    """Records the calls, and the thread of each."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.threads: set[threading.Thread] = set()
        self.ended = asyncio.Event()

    def on_message(self, message: dict[str, Any]) -> None:
        self.heard.append(message)
        self.threads.add(threading.current_thread())

    def on_room(self) -> None:
        """Nothing is sent here that waits."""

    def on_input_lost(self) -> None:
        """The other end is held open."""

    def on_end(self, fault: str | None) -> None:
        self.heard.append(fault)
        self.threads.add(threading.current_thread())
        self.ended.set()


def pipes() -> tuple[int, int, int, int]:
    host_read, daemon_write = os.pipe()
    daemon_read, host_write = os.pipe()
    return host_read, daemon_write, daemon_read, host_write


def test_the_loop_hears_each_message_and_then_the_end() -> None:
    async def run() -> None:
        host_read, daemon_write, daemon_read, host_write = pipes()
        listener = Listener()
        channel = LoopChannel(host_read, host_write, listener)
        channel.start()
        channel.send(b'{"type":"health"}\n')
        for piece in (b'{"n":', b'1}\n{"n":2}\nno JSON\n', b'{"n":3}'):
            os.write(daemon_write, piece)
            await asyncio.sleep(0)
        os.close(daemon_write)
        async with asyncio.timeout(30):
            await listener.ended.wait()
        assert listener.heard == [{"n": 1}, {"n": 2}, {"n": 3}, None]
        assert listener.threads == {threading.current_thread()}
        assert os.read(daemon_read, 100) == b'{"type":"health"}\n'
        channel.close()
        await asyncio.to_thread(channel.join, 30)
        os.close(daemon_read)

    asyncio.run(run())


def test_an_abandoned_channel_ends_though_the_other_side_is_held_open() -> None:
    async def run() -> None:
        host_read, daemon_write, daemon_read, host_write = pipes()
        listener = Listener()
        channel = LoopChannel(host_read, host_write, listener)
        channel.start()
        await asyncio.to_thread(channel.abandon)
        async with asyncio.timeout(30):
            await listener.ended.wait()
        assert listener.heard == [None]
        await asyncio.to_thread(channel.join, 30)
        os.close(daemon_write)
        os.close(daemon_read)

    asyncio.run(run())
