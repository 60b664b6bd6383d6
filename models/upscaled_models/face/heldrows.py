"""Rows of a picture that were read and cannot be passed on yet."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from upscaled_protocol.errors import ErrorCode, JobError

# More than this is held in temporary files.
_IN_MEMORY_BYTES = 128 * 1024 * 1024


@dataclass
class _Block:
    top: int
    rows: np.ndarray

    @property
    def bottom(self) -> int:
        return self.top + len(self.rows)


class HeldRows:
    """Consecutive rows, (h, W, C) of uint8 or uint16: added at the bottom, taken from the top."""

    def __init__(self, in_memory_bytes: int = _IN_MEMORY_BYTES) -> None:
        self._in_memory_bytes = in_memory_bytes
        self._blocks: deque[_Block] = deque()
        # The row below the last one.
        self.bottom = 0

    def add(self, rows: np.ndarray, *, to_change: bool) -> None:
        """Hold the next rows. to_change: they are copied, so that they can be changed.

        Raises `JobError` (output_unwritable) if there is no room for a temporary file.
        """
        if to_change:
            copy = self._room_for(rows)
            copy[:] = rows
            rows = copy
        self._blocks.append(_Block(self.bottom, rows))
        self.bottom += len(rows)

    def between(self, top: int, bottom: int) -> Iterator[tuple[int, np.ndarray]]:
        """Views of the rows `top` to `bottom`, each with its first row; to be changed in place."""
        for block in self._blocks:
            first, last = max(top, block.top), min(bottom, block.bottom)
            if first < last:
                yield first, block.rows[first - block.top : last - block.top]

    def take(self, bottom: int) -> Iterator[np.ndarray]:
        """Give away all rows above the row `bottom`."""
        while self._blocks and self._blocks[0].top < bottom:
            block = self._blocks.popleft()
            count = min(bottom, block.bottom) - block.top
            if count < len(block.rows):
                self._blocks.appendleft(_Block(block.top + count, block.rows[count:]))
            yield block.rows[:count]

    def _room_for(self, rows: np.ndarray) -> np.ndarray:
        held = sum(block.rows.nbytes for block in self._blocks)
        if held + rows.nbytes <= self._in_memory_bytes:
            return np.empty_like(rows)
        with tempfile.TemporaryFile() as file:
            try:
                # A write to a mapped file on a full disk would end the process.
                os.posix_fallocate(file.fileno(), 0, rows.nbytes)
            except OSError as error:
                raise JobError(
                    ErrorCode.OUTPUT_UNWRITABLE,
                    f"to restore a face this large takes room for temporary files, and "
                    f"{tempfile.gettempdir()} has too little ({error.strerror}): make room there, "
                    "or set TMPDIR",
                ) from None
            return np.memmap(file, rows.dtype, "r+", shape=rows.shape)
