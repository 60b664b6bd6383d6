"""Accepted jobs that wait for a worker."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Iterator

import orjson

from upscaled_protocol.envelope import Envelope


class Job:
    """An accepted job, from acceptance to its terminal event.

    `line` is the host's own line, forwarded as it came unless the supervisor has to add to it.
    """

    __slots__ = (
        "accepted_at",
        "attempts",
        "budget_s",
        "deadline",
        "ending",
        "ends_at",
        "heard_at",
        "job_id",
        "line",
        "max_attempts",
        "method",
        "model",
        "order",
        "percent",
        "priority",
        "started_at",
        "waiting",
    )

    def __init__(self, envelope: Envelope, line: bytes) -> None:
        assert envelope.job_id is not None
        now = time.monotonic()
        config = envelope.fields.get("config")
        model = config.get("model") if isinstance(config, dict) else None
        self.job_id = envelope.job_id
        self.line = line if envelope.attempt == 1 else _with_attempt(envelope.fields, 1)
        self.method = envelope.method
        self.model = f"{envelope.method}:{model}"  # for affinity: equal text, equal model
        self.priority = envelope.priority
        self.max_attempts = envelope.max_attempts
        self.accepted_at = now
        self.deadline = now + envelope.timeout_s if envelope.timeout_s is not None else None
        self.attempts = 0  # starts that it was charged with
        self.order = 0  # among equals; kept over a retry, which so goes to the front
        self.started_at = 0.0
        self.percent = 0.0
        # The stall clock, while it runs: see `Child.stalled_job`.
        self.heard_at = 0.0
        self.budget_s = 0.0
        self.waiting = False
        # Why the supervisor asked the worker to end it, and until when it waits for that.
        self.ending: str | None = None
        self.ends_at = 0.0

    @property
    def line_for_worker(self) -> bytes:
        """The job as its worker is to see it."""
        if self.attempts == 0:
            return self.line
        return _with_attempt(orjson.loads(self.line), self.attempts + 1)


class JobQueue:
    """Highest priority first, equals in order; a queue for each method, bounded by the owner."""

    def __init__(self) -> None:
        self._order = itertools.count(1)
        self._heaps: dict[str, list[tuple[int, int, Job]]] = {}
        self._jobs: dict[str, Job] = {}
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def push(self, job: Job) -> int:
        """Add a job, or put a retried one back in its old place; how many go before it."""
        if not job.order:
            job.order = next(self._order)
        ahead = sum(count for other, count in self._counts.items() if other >= job.priority)
        heap = self._heaps.setdefault(job.method, [])
        heapq.heappush(heap, (-job.priority, job.order, job))
        self._jobs[job.job_id] = job
        self._counts[job.priority] += 1
        return ahead

    def peek(self, methods: Iterable[str]) -> Job | None:
        """The next job of any of these methods."""
        best: tuple[int, int, Job] | None = None
        for method in methods:
            heap = self._heaps.get(method, [])
            while heap and self._jobs.get(heap[0][2].job_id) is not heap[0][2]:
                heapq.heappop(heap)  # removed from the middle earlier
            if heap and (best is None or heap[0] < best):
                best = heap[0]
        return best[2] if best else None

    def remove(self, job: Job) -> bool:
        """Take a job out; False where it does not wait here."""
        if self._jobs.get(job.job_id) is not job:
            return False
        del self._jobs[job.job_id]
        self._counts[job.priority] -= 1
        heap = self._heaps[job.method]
        if heap[0][2] is job:
            heapq.heappop(heap)
        return True


def _with_attempt(fields: dict[str, object], attempt: int) -> bytes:
    return orjson.dumps(fields | {"attempt": attempt})
