"""Texts of a log that come over and over while Redis is away or takes no writes."""

from __future__ import annotations

import time
from collections.abc import Callable

# While Redis takes no writes, some errors come ten times per second.
_REPEAT_S = 60.0
# Different texts that are remembered.
_REMEMBERED = 1000


class Seldom:
    """Lets each text be logged once per minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logged_at: dict[str, float] = {}

    def is_due(self, text: str) -> bool:
        """False for a text that was due within the last minute."""
        now = self._clock()
        if now < self._logged_at.get(text, -_REPEAT_S) + _REPEAT_S:
            return False
        if len(self._logged_at) >= _REMEMBERED:
            self._logged_at.clear()
        self._logged_at[text] = now
        return True
