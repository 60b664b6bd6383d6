"""Memory for bodies that are read whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from upscaled_http.bodymemory import BodyMemory

LARGEST = 1_000_000


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


class Reading:
    """Bodies that are being read until `end`."""

    def __init__(self) -> None:
        self.memory = BodyMemory(LARGEST)
        self.begun: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def begin(self, name: str, size: int) -> None:
        """Begin to read a body, or to wait for its turn."""
        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._read(name, size))
        await settle()

    async def end(self, name: str) -> None:
        """The body was read."""
        self._ends[name].set()
        await self._tasks[name]
        await settle()

    async def leave(self, name: str) -> None:
        """Cancel the read."""
        self._tasks[name].cancel()
        await asyncio.wait([self._tasks[name]])
        await settle()

    async def _read(self, name: str, size: int) -> None:
        async with self.memory.reserved(size):
            self.begun.append(name)
            await self._ends[name].wait()


def run(test: Callable[[Reading], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test(Reading())

    asyncio.run(bounded())


def test_four_bodies_of_the_largest_size_are_read_at_once() -> None:
    async def test(reading: Reading) -> None:
        for name in "abcdef":
            await reading.begin(name, LARGEST)
        assert reading.begun == list("abcd")
        await reading.end("b")
        assert reading.begun == list("abcde")
        await reading.leave("a")
        assert reading.begun == list("abcdef")

    run(test)


def test_a_body_waits_behind_a_larger_one_that_came_before() -> None:
    async def test(reading: Reading) -> None:
        for name in "abc":
            await reading.begin(name, LARGEST)
        await reading.begin("half", LARGEST // 2)
        await reading.begin("large", LARGEST)
        await reading.begin("late", LARGEST // 4)
        assert reading.begun == ["a", "b", "c", "half"]
        await reading.leave("large")
        assert reading.begun[-1] == "late"

    run(test)


def test_a_small_body_never_waits() -> None:
    async def test(reading: Reading) -> None:
        for name in "abcde":
            await reading.begin(name, LARGEST)
        await reading.begin("small", 60_000)
        assert reading.begun[-1] == "small"

    run(test)
