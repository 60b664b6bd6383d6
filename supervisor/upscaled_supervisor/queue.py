"""Accepted jobs that wait for a worker."""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import Any

from upscaled_protocol.envelope import WAITING_STAGE, Envelope


class Job:
    """A job, from its line to its terminal event.

    `line` is the host's own line, forwarded as it came unless the supervisor has to add to it.
    """

    __slots__ = (
        "attempts",
        "budget_s",
        "chooses_its_name",
        "deadline",
        "deaths",
        "ending",
        "ends_at",
        "is_running",
        "job_id",
        "line",
        "max_attempts",
        "method",
        "model",
        "order",
        "percent",
        "priority",
        "progress_at",
        "started_at",
        "timeout_s",
        "waiting",
    )

    def __init__(self, envelope: Envelope, line: bytes) -> None:
        assert envelope.job_id is not None
        config = envelope.fields.get("config")
        model = config.get("model") if isinstance(config, dict) else None
        self.job_id = envelope.job_id
        self.line = line if envelope.attempt == 1 else _with_attempt(line, 1)
        self.chooses_its_name = _chooses_its_name(envelope)
        self.method = envelope.method
        self.model = f"{envelope.method}:{model}"  # for affinity: equal text, equal model
        self.priority = envelope.priority
        self.max_attempts = envelope.max_attempts
        self.timeout_s = envelope.timeout_s
        self.deadline: float | None = None
        self.attempts = 0  # starts that it was charged with
        self.deaths = 0  # of daemons, while it ran: see `Journal`
        self.is_running = False  # as far as the journal is concerned
        self.order = 0  # among equals; kept over a retry, which so goes to the front
        self.started_at = 0.0
        self.percent = 0.0
        # The stall clock while the job runs: see `Child.stalled_job`.
        self.progress_at = 0.0
        self.budget_s = 0.0
        self.waiting = False
        # Why the supervisor asked the worker to end it, and until when it waits for that.
        self.ending: str | None = None
        self.ends_at = 0.0

    def start_clock(self, now: float) -> None:
        """The job is accepted: its `timeout_s` begins."""
        if self.timeout_s is not None:
            self.deadline = now + self.timeout_s

    def handle_progress(self, fields: dict[str, Any], now: float, usual_budget_s: float) -> None:
        """The job has made progress: the stall clock restarts."""
        self.progress_at = now
        self.budget_s = fields.get("budget_s") or usual_budget_s
        self.waiting = fields["stage"] == WAITING_STAGE

    @property
    def is_suspect(self) -> bool:
        """Whether it ran when a worker or a daemon went down: it is to run without company."""
        return self.attempts > 0 or self.deaths > 0

    @property
    def line_for_worker(self) -> bytes:
        """The job as its worker is to see it."""
        if self.attempts == 0:
            return self.line
        return _with_attempt(self.line, self.attempts + 1)


def _chooses_its_name(envelope: Envelope) -> bool:
    """Whether the worker names the output of this job, which so never replaces a file."""
    config = envelope.fields.get("config")
    if envelope.method == "fake" or not isinstance(config, dict):
        return False
    return config.get("output_path") is None and not config.get("output_base64")


class JobQueue:
    """Highest priority first, equals in order; bounded by the owner.

    A sorted list for each method: a job that leaves from the middle is gone at once, with its
    line, and a place in the list is the answer to how many go before. The jobs that ran when a
    daemon went down have lists of their own, because they run one at a time.
    """

    def __init__(self) -> None:
        self._order = itertools.count(1)
        # By method, and whether a daemon went down while they ran.
        self._waiting: dict[tuple[str, bool], list[tuple[int, int, Job]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Job]:
        return (entry[2] for waiting in self._waiting.values() for entry in waiting)

    @property
    def methods(self) -> set[str]:
        """Those that some job waits for."""
        return {method for (method, _), waiting in self._waiting.items() if waiting}

    def push(self, job: Job) -> int:
        """Add a job, or put a retried one back in its old place; how many go before it."""
        if not job.order:
            job.order = next(self._order)
        place = (-job.priority, job.order)
        ahead = sum(bisect_left(waiting, place) for waiting in self._waiting.values())
        insort(self._waiting.setdefault(_list_of(job), []), (*place, job))
        return ahead

    def peek(self, methods: Iterable[str], *, with_deaths: bool = True) -> Job | None:
        """The next job of any of these methods; without `with_deaths` not one that ran when a
        daemon went down."""
        kinds = (False, True) if with_deaths else (False,)
        lists = [self._waiting.get((method, kind)) for method in methods for kind in kinds]
        heads = [waiting[0] for waiting in lists if waiting]
        return min(heads)[2] if heads else None

    def remove(self, job: Job) -> bool:
        """Take a job out; False where it does not wait here."""
        waiting = self._waiting.get(_list_of(job), [])
        index = bisect_left(waiting, (-job.priority, job.order))
        if index == len(waiting) or waiting[index][2] is not job:
            return False
        del waiting[index]
        return True


def _list_of(job: Job) -> tuple[str, bool]:
    return job.method, job.deaths > 0


def with_accepted_as(line: bytes, accepted_as: str) -> bytes:
    """The line with a name of this acceptance, by which each run of the job knows its output."""
    return _with(line, b'"accepted_as":"%b"' % accepted_as.encode())


def _with_attempt(line: bytes, attempt: int) -> bytes:
    return _with(line, b'"attempt":%d' % attempt)


def _with(line: bytes, field: bytes) -> bytes:
    """The line with a last field added: of a name that occurs twice the last one counts, and so
    the line need not be encoded anew (nor could each: orjson reads deeper than it writes)."""
    return b"%b,%b}" % (line.rstrip()[:-1], field)
