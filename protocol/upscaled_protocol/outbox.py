"""The lines on their way to a reader that may be slow."""

from __future__ import annotations

from collections import deque
from typing import Protocol

# One write's worth of lines is joined at a time: enough to fill a pipe, little to copy.
_BATCH_BYTES = 64 * 1024


class Writer(Protocol):
    """Where the lines go: `NonBlockingWriter`, or a pipe of our own."""

    fd: int

    def write(self, data: memoryview) -> int:
        """Bytes taken, 0 where the reader is slow. Raises `OSError` where it is gone."""


class _Progress:
    """A waiting progress line, to be replaced by newer progress of the same job."""

    __slots__ = ("data", "job_id")

    def __init__(self, data: bytes, job_id: str) -> None:
        self.data = data
        self.job_id = job_id


class Outbox:
    """Keeps lines in order and writes them as fast as the reader takes them.

    Nothing but progress is ever dropped: of a job's waiting progress only the newest is kept.
    Not thread-safe; the owner serialises.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        # Other lines are gathered, for a bytes object each may take many times its length.
        self._waiting: deque[bytearray | _Progress] = deque()
        self._progress: dict[str, _Progress] = {}
        self._batch = memoryview(b"")
        self.waiting_bytes = 0
        self.dropped_progress = 0
        # Whether nothing that waits is urgent: one write then may take it along with what follows.
        self.can_wait = True

    @property
    def fd(self) -> int:
        """The descriptor to poll for writing while `waiting_bytes` is not 0."""
        return self._writer.fd

    def put(self, line: bytes, *, can_wait: bool = False) -> None:
        """Add one line, newline included. One that `can_wait` is not urgent to the reader."""
        last = self._waiting[-1] if self._waiting else None
        if isinstance(last, bytearray) and len(last) < _BATCH_BYTES:
            last += line
        else:
            self._waiting.append(bytearray(line))
        self.waiting_bytes += len(line)
        self.can_wait = self.can_wait and can_wait

    def put_progress(self, job_id: str, line: bytes) -> None:
        """Add a progress line, or put it in the place of the one that still waits."""
        self.can_wait = False
        waiting = self._progress.get(job_id)
        if waiting is None:
            waiting = self._progress[job_id] = _Progress(line, job_id)
            self._waiting.append(waiting)
            self.waiting_bytes += len(line)
            return
        self.waiting_bytes += len(line) - len(waiting.data)
        waiting.data = line
        self.dropped_progress += 1

    def flush(self) -> bool:
        """Write what the reader takes now; True where nothing is left.

        Raises `OSError` where the reader is gone.
        """
        while self.waiting_bytes:
            if not self._batch:
                self._batch = memoryview(self._next_batch())
            taken = self._writer.write(self._batch)
            if not taken:
                self.can_wait = False  # it has waited, and the reader may take more at any time
                return False
            self._batch = self._batch[taken:]
            self.waiting_bytes -= taken
        self.can_wait = True
        return True

    def clear(self) -> None:
        """Forget what waits: the reader is gone."""
        self._waiting.clear()
        self._progress.clear()
        self._batch = memoryview(b"")
        self.waiting_bytes = 0

    def _next_batch(self) -> bytearray:
        batch = bytearray()
        while self._waiting and len(batch) < _BATCH_BYTES:
            first = self._waiting.popleft()
            if isinstance(first, _Progress):
                del self._progress[first.job_id]
                first = bytearray(first.data)
            batch = batch + first if batch else first
        return batch
