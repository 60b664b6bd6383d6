"""Every accepted job, and the one terminal event of each."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from upscaled_protocol.admission import REMEMBERED_IDS, Admission
from upscaled_protocol.envelope import open_envelope
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.lines import encode_line
from upscaled_protocol.log import Logger
from upscaled_protocol.outbox import Outbox
from upscaled_supervisor.causes import Cause
from upscaled_supervisor.deadlines import Deadlines
from upscaled_supervisor.journal import Journal, PendingJob
from upscaled_supervisor.queue import Job, JobQueue, with_accepted_as
from upscaled_supervisor.system import System

# A base64 picture is long: lines that wait are bounded in bytes too.
MAX_QUEUED_BYTES = 1024 * 1024 * 1024
# Recorded events are sent again in portions, between which everything else goes on.
_REPLAY_BYTES = 256 * 1024
_REPLAY_IDS = 1000
# How many daemons may go down while a job runs. More than the attempts of a worker's job: people
# and machines kill daemons too, and then every job that runs is charged.
_MAX_DEATHS = 3
# Upper bounds in seconds, from a thumbnail to a FLUX poster.
DURATION_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)


class Ledger:
    """Accepts jobs, holds them while they wait or run, and ends each exactly once."""

    def __init__(self, outbox: Outbox, system: System, log: Logger, max_jobs: int) -> None:
        self.queue = JobQueue()
        self.deadlines = Deadlines()
        self.jobs: dict[str, Job] = {}
        self.admission = Admission[Job](
            self.jobs, has_room=self._has_room, accept=self.accept, send=self._send
        )
        self.journal: Journal | None = None
        self.outcomes: Counter[tuple[str, str]] = Counter()  # (method, "completed" or a code)
        self.durations: dict[str, list[float]] = {}  # by method: a bucket each, the rest, the sum
        self._outbox = outbox
        self._system = system
        self._log = log
        self._max_jobs = max_jobs
        # Together they tell an acceptance from every other one in the world.
        self._name = os.urandom(8).hex()
        self._acceptances = itertools.count(1)
        self._queued_bytes = 0
        # Jobs that have begun to run, yet to be recorded; None once the daemon is told to stop.
        self._begun: list[Job] | None = []
        self._deaths = 0  # jobs in flight that ran when a daemon went down
        self._replays: deque[Iterator[bytes]] = deque()
        self._early_replays: deque[list[str] | None] = deque(maxlen=REMEMBERED_IDS)

    @property
    def failed(self) -> int:
        """Jobs that ended in an error."""
        return sum(n for (_, outcome), n in self.outcomes.items() if outcome != "completed")

    @property
    def awaits_journal(self) -> bool:
        """True while another daemon still holds the journal: no job is accepted."""
        return self.admission.is_paused

    @awaits_journal.setter
    def awaits_journal(self, awaits: bool) -> None:
        self.admission.is_paused = awaits

    def _has_room(self) -> bool:
        return len(self.jobs) < self._max_jobs and self._queued_bytes < MAX_QUEUED_BYTES

    def accept(self, job: Job) -> None:
        """Take a job whose id is free, and tell the host; an early cancel ends it at once.

        Raises `JobError` (journal_unwritable), and then it is not accepted.
        """
        if job.chooses_its_name:
            name = f"{self._name}-{next(self._acceptances)}"
            job.line = with_accepted_as(job.line, name)
        if self.journal is not None:
            self.journal.accept(job.job_id, job.line)
        if self._take(job):
            self.fail_cancelled(job)

    def restore(self, journal: Journal) -> None:
        """Take up a journal and its pending jobs; the host is told of each as accepted."""
        self.journal = journal
        self.awaits_journal = False
        for pending in journal.pending():
            try:
                job = _restored(pending)
            except JobError as error:  # damaged on disk, or accepted by another release
                error.job_id = pending.job_id
                self._record_event(pending.job_id, encode_line(self.admission.refuse(error)))
                continue
            job.attempts = pending.attempts
            job.deaths = pending.deaths
            if self._take(job):
                self.fail_cancelled(job)
            elif job.attempts >= job.max_attempts:  # we were killed before we could say so
                self.fail_for_good(job, None)
            elif job.deaths >= _MAX_DEATHS:
                self._fail_deadly(job)
        while self._early_replays:
            self.replay(self._early_replays.popleft())

    def retry(self, job: Job) -> None:
        """Put a job that lost its worker back in its place."""
        job.waiting = False
        if job.is_running:
            job.is_running = False
            self._record(lambda journal: journal.note_waiting(job.job_id))
        self.queue.push(job)

    def take_back(self, job: Job, cause: Cause | None) -> None:
        """A job that its worker has no longer, and has not ended: end it, or have it tried again.

        cause: how the worker was taken down by it; None where that was not the job's doing.
        """
        if self.jobs.get(job.job_id) is not job:
            return  # it has ended, though its worker's last line could not be dealt with
        if job.ending == "cancel":
            self.fail_cancelled(job)
        elif job.ending == "deadline":
            self.fail_deadline(job)
        elif cause is None:
            self.retry(job)
        else:
            self._charge(job)
            if job.attempts < job.max_attempts:
                self.retry(job)
            else:
                self.fail_for_good(job, cause)

    def note_running(self, job: Job) -> None:
        """A job has the worker, or its part of it: if the daemon goes down now, it may be why."""
        if not job.is_running and self.journal is not None and self._begun is not None:
            job.is_running = True
            self._begun.append(job)

    def record_running(self) -> None:
        """Have the journal know of the jobs that run: once for each run, and not of those that are
        done before the next tick, because that would cost them a fifth of their dispatch."""
        if not self._begun:
            return
        begun, self._begun = self._begun, []
        for job in begun:
            if job.is_running and self.jobs.get(job.job_id) is job:
                self._record(lambda journal, job=job: journal.note_running(job.job_id))

    def note_clean_stop(self) -> None:
        """The daemon was told to stop, or does so by itself: whatever ends it now, no job did."""
        self._begun = None
        if self.journal is not None:
            self._record(lambda journal: journal.note_clean_stop())

    @property
    def has_deaths(self) -> bool:
        """Whether a job is in flight that ran when a daemon went down."""
        return self._deaths > 0

    def progress(self, job: Job, line: bytes, fields: dict[str, Any]) -> None:
        """Forward progress; a second attempt begins where the first had come to."""
        if not job.waiting:
            self.note_running(job)
        percent = fields["progress"]
        if percent < job.percent:
            line = encode_line(fields | {"progress": job.percent})
        else:
            job.percent = percent
            line += b"\n"
        self._outbox.put_progress(job.job_id, line)

    def finish(self, job: Job, line: bytes, outcome: str) -> None:
        """Send the terminal event. The job's id is free from here on."""
        self.leave(job)
        self.admission.note_ended(job.job_id)
        self.outcomes[job.method, outcome] += 1
        self._count_duration(job)
        event = line + b"\n"
        self._record_event(job.job_id, event)
        self._outbox.put(event)

    def leave(self, job: Job) -> None:
        """Let go of a job: it has ended, or the journal keeps it for the next start."""
        del self.jobs[job.job_id]
        self.queue.remove(job)
        self.deadlines.remove(job)
        self._queued_bytes -= len(job.line)
        self._deaths -= job.deaths > 0

    def fail(self, job: Job, code: ErrorCode, text: str, cause: Cause | None = None) -> None:
        """End a job with an error of the supervisor's own."""
        error = JobError(code, text, job_id=job.job_id).message_fields()
        if job.started_at:
            error["attempt"] = max(job.attempts, 1)
        if cause is not None:
            error["cause"] = cause
        self.finish(job, encode_line(error)[:-1], code)
        self._log.log("warning", "job_failed", job_id=job.job_id, code=code, reason=text)

    def cancel_held(self, job_id: str) -> bool:
        """End a job that is not accepted yet; False if no such job is held."""
        job = self.admission.cancel_held(job_id)
        if job is not None:
            self.outcomes[job.method, ErrorCode.CANCELLED] += 1
        return job is not None

    def fail_cancelled(self, job: Job) -> None:
        """End a job that the host wants no more."""
        self.fail(job, ErrorCode.CANCELLED, "the job was cancelled")

    def fail_deadline(self, job: Job) -> None:
        """End a job whose time is up."""
        self.fail(job, ErrorCode.DEADLINE_EXCEEDED, "the job's timeout_s passed")

    def fail_for_good(self, job: Job, cause: Cause | None) -> None:
        """End a job that lost its worker on each of its attempts, the last time for this cause.

        One such loss, where one start was allowed, proves nothing against the job itself.
        """
        why = cause.sentence() if cause else "its supervisor ended too, so that no more is known"
        reason = cause["reason"] if cause else None
        if job.attempts > 1:
            text = f"the job took its worker down {job.attempts} times: {why}"
            self.fail(job, ErrorCode.POISONED, text, cause)
        elif reason == "stall":
            self.fail(job, ErrorCode.STALLED, why, cause)
        elif reason == "oom_kill":
            self.fail(job, ErrorCode.OUT_OF_MEMORY, why, cause)
        else:
            self.fail(job, ErrorCode.WORKER_CRASHED, why, cause)

    def _fail_deadly(self, job: Job) -> None:
        """End a job that ran each time a daemon went down."""
        text = (
            f"the daemon was killed {job.deaths} times while the job ran, which may have taken all "
            "memory; give it more memory, or a smaller picture"
        )
        self.fail(job, ErrorCode.POISONED, text, Cause("supervisor_killed"))

    def replay(self, job_ids: list[str] | None) -> None:
        """Have recorded terminal events sent again, as fast as `send_replays` is called."""
        if self.journal is not None:
            self._replays.append(self.journal.events(job_ids))
        elif self.awaits_journal:
            self._early_replays.append(job_ids)

    @property
    def is_replaying(self) -> bool:
        """Whether recorded events wait to be sent again."""
        return bool(self._replays)

    @property
    def can_replay(self) -> bool:
        """Whether one of them can be sent now, for the host has read what came before."""
        return self.is_replaying and self._outbox.waiting_bytes < _REPLAY_BYTES

    def send_replays(self) -> None:
        """Send as much again as the host is likely to take at once."""
        for _ in range(_REPLAY_IDS):
            if not self.can_replay:
                return
            try:
                event = next(self._replays[0], None)
            except sqlite3.Error as error:
                event = None
                text = f"the journal cannot be read: {error}"
                self.admission.refuse(JobError(ErrorCode.INTERNAL, text))
            if event is None:
                self._replays.popleft()
            elif event:
                self._outbox.put(event)

    def stop_replays(self) -> None:
        """Nobody has the time to read them any longer."""
        self._replays.clear()

    def catch_up(self) -> None:
        """Have the journal record what a full disk kept from it."""
        if self.journal is not None:
            with contextlib.suppress(sqlite3.Error):  # told when it first failed
                self.journal.catch_up()

    def _send(self, fields: dict[str, Any]) -> None:
        self._outbox.put(encode_line(fields))

    def _take(self, job: Job) -> bool:
        """Report a job as accepted; True if the host has cancelled it already."""
        self.jobs[job.job_id] = job
        self._queued_bytes += len(job.line)
        self._deaths += job.deaths > 0
        position = self.queue.push(job)
        job.start_clock(self._system.now())
        self.deadlines.add(job)
        accepted = {"type": "accepted", "job_id": job.job_id, "position": position}
        self._outbox.put(encode_line(accepted), can_wait=True)
        return self.admission.note_accepted(job.job_id)

    def _charge(self, job: Job) -> None:
        """Count a start that took the worker down."""
        job.attempts += 1
        if self.journal is not None:
            self._record(lambda journal: journal.charge(job.job_id, job.attempts))

    def _record_event(self, job_id: str, event: bytes) -> None:
        if self.journal is not None:
            self._record(lambda journal: journal.finish(job_id, event))

    def _record(self, write: Any) -> None:
        try:
            write(self.journal)
        except sqlite3.Error as error:
            # The host is answered all the same. Should we be killed before the disk has room
            # again, the job would be done again after a restart.
            self._log.log("error", "journal_unwritable", detail=str(error))

    def _count_duration(self, job: Job) -> None:
        if not job.started_at:
            return
        seconds = self._system.now() - job.started_at
        counts = self.durations.setdefault(job.method, [0.0] * (len(DURATION_BUCKETS_S) + 2))
        counts[bisect_left(DURATION_BUCKETS_S, seconds)] += 1
        counts[-1] += seconds


def _restored(pending: PendingJob) -> Job:
    """A job of the journal. Raises `JobError` if its row is damaged."""
    envelope = open_envelope(pending.line)
    if envelope.type != "job" or envelope.job_id != pending.job_id:
        raise JobError(ErrorCode.INVALID_JOB, "the journal holds another line under this job's id")
    return Job(envelope, pending.line)
