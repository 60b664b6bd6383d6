"""A job, and the queue of accepted jobs that wait for a worker."""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from typing import Any

from upscaled_protocol.envelope import WAITING_STAGE, Envelope


class Job:
    """A job, from its line to its terminal event.

    `line` is the host's own line. The supervisor forwards it as it is, or with a field added.
    """

    __slots__ = (
        "attempts",
        "budget_s",
        "daemon_kills",
        "deadline",
        "ending",
        "ends_at",
        "is_running",
        "job_id",
        "line",
        "max_attempts",
        "method",
        "model",
        "names_its_output",
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
        self.names_its_output = _names_its_output(envelope)
        self.method = envelope.method
        # For affinity: jobs with the same text use the same model.
        self.model = f"{envelope.method}:{model}"
        self.priority = envelope.priority
        self.max_attempts = envelope.max_attempts
        self.timeout_s = envelope.timeout_s
        self.deadline: float | None = None
        self.attempts = 0  # that were charged
        self.daemon_kills = 0  # while it ran: see `Journal`
        self.is_running = False  # and does not wait in its worker; for the journal
        self.order = 0  # among jobs of its priority; kept if it is requeued
        self.started_at = 0.0
        self.percent = 0.0
        # The stall clock while the job runs: see `Child.stalled_job`.
        self.progress_at = 0.0
        self.budget_s = 0.0
        self.waiting = False
        # "cancel" or "deadline" once its worker was asked to end it, and the time limit for that.
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
        """True if it ran when its worker exited or a daemon was killed: it must run alone."""
        return self.attempts > 0 or self.is_kill_suspect

    @property
    def is_kill_suspect(self) -> bool:
        """True if it ran when a daemon was killed: such jobs run one at a time."""
        return self.daemon_kills > 0

    @property
    def line_for_worker(self) -> bytes:
        """The line for its worker, with the number of the attempt."""
        if self.attempts == 0:
            return self.line
        return _with_attempt(self.line, self.attempts + 1)


def _names_its_output(envelope: Envelope) -> bool:
    """True if the worker chooses the output's name, so that no file is replaced."""
    config = envelope.fields.get("config")
    if envelope.method == "fake" or not isinstance(config, dict):
        return False
    return not any(config.get(field) for field in ("output_path", "output_base64", "output_url"))


class JobQueue:
    """Highest priority first, then the order of acceptance. The owner limits its length.

    One sorted list per method, and not a heap: a job that leaves from the middle is freed at once,
    with its line, and its index is the number of jobs before it. Kill suspects have lists of their
    own, because they run one at a time.
    """

    def __init__(self) -> None:
        self._order = itertools.count(1)
        # By method, and True for kill suspects.
        self._waiting: dict[tuple[str, bool], list[tuple[int, int, Job]]] = {}

    def __len__(self) -> int:
        # A copy, because the metrics' thread calls this too.
        return sum(map(len, list(self._waiting.values())))

    def __iter__(self) -> Iterator[Job]:
        return (entry[2] for waiting in self._waiting.values() for entry in waiting)

    @property
    def methods(self) -> set[str]:
        """The methods of the jobs that wait."""
        return {method for (method, _), waiting in self._waiting.items() if waiting}

    def push(self, job: Job) -> int:
        """Add a job, or put a requeued one back into its place; the number of jobs before it."""
        if not job.order:
            job.order = next(self._order)
        place = (-job.priority, job.order)
        ahead = sum(bisect_left(waiting, place) for waiting in self._waiting.values())
        insort(self._waiting.setdefault(_list_of(job), []), (*place, job))
        return ahead

    def peek(self, methods: Iterable[str], *, with_kill_suspects: bool = True) -> Job | None:
        """The next job of any of these methods, with or without the kill suspects."""
        kinds = (False, True) if with_kill_suspects else (False,)
        lists = [self._waiting.get((method, kind)) for method in methods for kind in kinds]
        heads = [waiting[0] for waiting in lists if waiting]
        return min(heads)[2] if heads else None

    def remove(self, job: Job) -> None:
        """Remove a job, if it is in the queue."""
        waiting = self._waiting.get(_list_of(job), [])
        index = bisect_left(waiting, (-job.priority, job.order))
        if index < len(waiting) and waiting[index][2] is job:
            del waiting[index]


def _list_of(job: Job) -> tuple[str, bool]:
    return job.method, job.is_kill_suspect


def with_accepted_as(line: bytes, accepted_as: str) -> bytes:
    """The line with the name of this acceptance, by which each attempt knows its output."""
    return _with(line, b'"accepted_as":"%b"' % accepted_as.encode())


def _with_attempt(line: bytes, attempt: int) -> bytes:
    return _with(line, b'"attempt":%d' % attempt)


def _with(line: bytes, field: bytes) -> bytes:
    """The line with a field added at its end. If the host has written the same field, the last one
    counts. The line is not encoded again, and not every line could be: orjson reads deeper nesting
    than it writes."""
    return b"%b,%b}" % (line.rstrip()[:-1], field)
