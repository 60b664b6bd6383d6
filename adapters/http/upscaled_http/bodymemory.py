"""Memory for bodies that are read whole, as JSON is, once they have come.

Without a limit, some tens of clients that send large pictures in JSON could fill the machine's
memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Bodies of the largest size at once.
_LARGEST_AT_ONCE = 4
# Smaller bodies are not counted, so a request without a picture never waits.
SMALL_BYTES = 64 * 1024


class BodyMemory:
    """Lets bodies be read in the order in which they have come, as long as there is room.
    largest_bytes: the limit of one body."""

    def __init__(self, largest_bytes: int) -> None:
        self._free_bytes = _LARGEST_AT_ONCE * largest_bytes
        self._turn = asyncio.Lock()
        self._was_freed = asyncio.Event()

    @asynccontextmanager
    async def reserved(self, size_bytes: int) -> AsyncIterator[None]:
        """Wait for room, and keep it while the context lasts."""
        if size_bytes <= SMALL_BYTES:
            yield
            return
        async with self._turn:
            while self._free_bytes < size_bytes:
                self._was_freed.clear()
                await self._was_freed.wait()
            self._free_bytes -= size_bytes
        try:
            yield
        finally:
            self._free_bytes += size_bytes
            self._was_freed.set()
