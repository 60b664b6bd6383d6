"""What a parser costs, in reads and bytes rather than in time."""

from __future__ import annotations

from typing import Any


class CountedReader:
    """A `read_at` over `data` that counts its calls and the bytes it gave."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.calls = 0
        self.bytes = 0

    def __call__(self, at: int, count: int) -> bytes:
        found = self._data[at : at + count]
        self.calls += 1
        self.bytes += len(found)
        return found


class SearchedBytes(bytes):
    """Bytes that count how many of them were searched."""

    searched = 0

    def find(self, wanted: Any, start: Any = 0, end: Any = None) -> int:
        found = super().find(wanted, start, end)
        self.searched += (len(self) if found < 0 else found + len(wanted)) - start
        return found
