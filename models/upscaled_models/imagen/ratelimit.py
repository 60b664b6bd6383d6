"""Limits how many calls begin per minute."""

from __future__ import annotations

import asyncio
from collections import deque

_MINUTE_S = 60.0


class RateLimit:
    """At most `calls` turns in any `window_s` seconds. The service's quota counts minutes."""

    def __init__(self, calls: int, window_s: float = _MINUTE_S) -> None:
        self._window_s = window_s
        self._starts: deque[float] = deque(maxlen=calls)

    async def turn(self) -> None:
        """Wait until one more call may start, and count it."""
        clock = asyncio.get_running_loop().time
        while len(self._starts) == self._starts.maxlen:
            wait_s = self._starts[0] + self._window_s - clock()
            if wait_s <= 0:
                break
            await asyncio.sleep(wait_s)
        self._starts.append(clock())
