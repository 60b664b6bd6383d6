"""Lines that wait for a reader that may be slow."""

from __future__ import annotations

from collections import deque
from typing import Protocol

# Lines are joined up to this length per write: enough to fill a pipe, and cheap to copy.
_BATCH_BYTES = 64 * 1024


class Writer(Protocol):
    """Writes the lines: `NonBlockingWriter`, or a pipe to a worker."""

    fd: int

    def write(self, data: memoryview) -> int:
        """Bytes taken; 0 if the reader is slow. Raises `OSError` if the reader is gone."""


class _Progress:
    """A waiting progress line, which newer progress of the same job replaces."""

    __slots__ = ("data", "job_id")

    def __init__(self, data: bytes, job_id: str) -> None:
        self.data = data
        self.job_id = job_id


class Outbox:
    """Keeps lines in order and writes them as fast as the reader takes them.

    Only progress is ever dropped: of a job's waiting progress the newest is kept. Not thread-safe:
    the owner serialises the calls.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        # Other lines are joined, because many small bytes objects would take much memory.
        self._waiting: deque[bytearray | _Progress] = deque()
        self._progress: dict[str, _Progress] = {}
        self._batch = memoryview(b"")
        self.waiting_bytes = 0
        self.dropped_progress = 0
        # False once a line must be written now. Else it may wait, to be written with the next one.
        self.can_wait = True

    @property
    def fd(self) -> int:
        """The descriptor to poll for writing while `waiting_bytes` is not 0."""
        return self._writer.fd

    def put(self, line: bytes, *, can_wait: bool = False) -> None:
        """Add one line, newline included. can_wait: the line may be written later."""
        last = self._waiting[-1] if self._waiting else None
        if isinstance(last, bytearray) and len(last) < _BATCH_BYTES:
            last += line
        else:
            self._waiting.append(bytearray(line))
        self.waiting_bytes += len(line)
        self.can_wait = self.can_wait and can_wait

    def put_progress(self, job_id: str, line: bytes) -> None:
        """Add a progress line, or replace the job's waiting one."""
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
        """Write what the reader takes now. True if nothing is left.

        Raises `OSError` if the reader is gone.
        """
        while self.waiting_bytes:
            if not self._batch:
                self._batch = memoryview(self._next_batch())
            taken = self._writer.write(self._batch)
            if not taken:
                self.can_wait = False  # write it as soon as the reader takes more
                return False
            self._batch = self._batch[taken:]
            self.waiting_bytes -= taken
        self.can_wait = True
        return True

    def clear(self) -> None:
        """Drop all lines, because the reader is gone."""
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
