"""Every accepted job, from its acceptance to its one terminal event."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from upscaled_protocol.admission import Admission
from upscaled_protocol.envelope import open_envelope
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.lines import encode_line
from upscaled_protocol.log import Logger
from upscaled_protocol.outbox import Outbox
from upscaled_supervisor.causes import Cause
from upscaled_supervisor.deadlines import Deadlines
from upscaled_supervisor.journal import Journal, PendingJob
from upscaled_supervisor.queue import Job, JobQueue, with_accepted_as
from upscaled_supervisor.replays import Replays
from upscaled_supervisor.system import System

P = ParamSpec("P")

# A line may hold a picture as base64, so the queue is bounded in bytes too.
MAX_QUEUED_BYTES = 1024 * 1024 * 1024
# A job that ran at this many kills of the daemon is ended. More than a job's attempts, because
# people and machines kill daemons too, and then every job that runs is charged.
_MAX_DAEMON_KILLS = 3
# Upper bounds in seconds, from a thumbnail to a FLUX poster.
DURATION_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)


class Ledger:
    """Accepts jobs, keeps them while they wait or run, and ends each exactly once."""

    def __init__(self, outbox: Outbox, system: System, log: Logger, max_jobs: int) -> None:
        self.queue = JobQueue()
        self.deadlines = Deadlines()
        self.jobs: dict[str, Job] = {}  # in flight, by id
        self.admission = Admission[Job](
            self.jobs, has_room=self._has_room, accept=self._accept, send=self._send
        )
        self.journal: Journal | None = None
        self.replays = Replays(outbox, refuse=self.admission.refuse)
        self.outcomes: Counter[tuple[str, str]] = Counter()  # (method, "completed" or a code)
        # By method: jobs per bucket of `DURATION_BUCKETS_S`, longer jobs, the sum in seconds.
        self.durations: dict[str, list[float]] = {}
        self._outbox = outbox
        self._system = system
        self._log = log
        self._max_jobs = max_jobs
        # Together they identify an acceptance among those of all daemons.
        self._name = os.urandom(8).hex()
        self._acceptances = itertools.count(1)
        self._queued_bytes = 0
        # Jobs that have begun to run and are not recorded yet; None once the daemon stops.
        self._begun: list[Job] | None = []
        self._kill_suspects = 0  # jobs in flight

    @property
    def failed(self) -> int:
        """How many jobs ended in an error."""
        return sum(n for (_, outcome), n in self.outcomes.items() if outcome != "completed")

    @property
    def has_kill_suspects(self) -> bool:
        """True if a job is in flight that ran when a daemon was killed."""
        return self._kill_suspects > 0

    # --- acceptance -------------------------------------------------------------------------

    @property
    def awaits_journal(self) -> bool:
        """True while another daemon holds the journal: no job is accepted."""
        return self.admission.is_paused

    @awaits_journal.setter
    def awaits_journal(self, awaits: bool) -> None:
        self.admission.is_paused = awaits

    def _has_room(self) -> bool:
        return len(self.jobs) < self._max_jobs and self._queued_bytes < MAX_QUEUED_BYTES

    def _accept(self, job: Job) -> None:
        """Accept a job whose id is free. Raises `JobError` (journal_unwritable) to refuse it."""
        if job.names_its_output:
            name = f"{self._name}-{next(self._acceptances)}"
            job.line = with_accepted_as(job.line, name)
        if self.journal is not None:
            self.journal.accept(job.job_id, job.line)
        if self._add(job):
            self.fail_cancelled(job)

    def restore(self, journal: Journal) -> None:
        """Record in this journal from now on, and accept its pending jobs.

        Raises `JournalError` if they cannot be read; then the journal is not used.
        """
        left = journal.pending()
        self.journal = journal
        self.awaits_journal = False
        for pending in left:
            try:
                job = _restored(pending)
            except JobError as error:  # damaged on disk, or accepted by another release
                error.job_id = pending.job_id
                event = encode_line(self.admission.refuse(error))
                self._record(Journal.finish, pending.job_id, event)
                continue
            job.attempts = pending.attempts
            job.daemon_kills = pending.daemon_kills
            if self._add(job):
                self.fail_cancelled(job)
            elif job.attempts >= job.max_attempts:  # the daemon was killed before it ended the job
                self._fail_out_of_attempts(job, None)
            elif job.daemon_kills >= _MAX_DAEMON_KILLS:
                self._fail_after_kills(job)
        self.replays.open(journal)

    def _add(self, job: Job) -> bool:
        """Queue a job and report it as accepted; True if the host has cancelled it already."""
        self.jobs[job.job_id] = job
        self._queued_bytes += len(job.line)
        self._kill_suspects += job.is_kill_suspect
        position = self.queue.push(job)
        job.start_clock(self._system.now())
        self.deadlines.add(job)
        accepted = {"type": "accepted", "job_id": job.job_id, "position": position}
        self._outbox.put(encode_line(accepted), can_wait=True)
        return self.admission.note_accepted(job.job_id)

    # --- running ----------------------------------------------------------------------------

    def mark_running(self, job: Job) -> None:
        """The job computes now, and does not only wait in its worker."""
        if not job.is_running and self.journal is not None and self._begun is not None:
            job.is_running = True
            self._begun.append(job)

    def record_running(self) -> None:
        """Record in the journal which jobs run: if the daemon is killed, they are charged.

        Once per run, and not for a job that ends before the next tick, because that would cost
        short jobs a fifth of their dispatch.
        """
        if not self._begun:
            return
        begun, self._begun = self._begun, []
        for job in begun:
            if job.is_running and self.jobs.get(job.job_id) is job:
                self._record(Journal.mark_running, job.job_id)

    def mark_clean_stop(self) -> None:
        """The daemon stops on purpose: if it is killed from now on, no job is charged."""
        self._begun = None
        self._record(Journal.mark_clean_stop)

    def progress(self, job: Job, line: bytes, fields: dict[str, Any]) -> None:
        """Forward progress. A second attempt never reports less than the first one did."""
        if not job.waiting:
            self.mark_running(job)
        percent = fields["progress"]
        if percent < job.percent:
            line = encode_line(fields | {"progress": job.percent})
        else:
            job.percent = percent
            line += b"\n"
        self._outbox.put_progress(job.job_id, line)

    def requeue(self, job: Job) -> None:
        """Put a job that no worker has any longer back into its place in the queue."""
        job.waiting = False
        if job.is_running:
            job.is_running = False
            self._record(Journal.mark_waiting, job.job_id)
        self.queue.push(job)

    def handle_lost_worker(self, job: Job, cause: Cause | None) -> None:
        """A worker is gone or drains, and has not ended this job: requeue it, or end it.

        cause: why the worker exited, if the job is charged with that; None if it is not.
        """
        if self.jobs.get(job.job_id) is not job:
            return  # it has ended, and an exception kept its worker from forgetting it
        if job.ending == "cancel":
            self.fail_cancelled(job)
        elif job.ending == "deadline":
            self.fail_deadline(job)
        elif cause is None:
            self.requeue(job)
        else:
            job.attempts += 1
            self._record(Journal.charge, job.job_id, job.attempts)
            if job.attempts < job.max_attempts:
                self.requeue(job)
            else:
                self._fail_out_of_attempts(job, cause)

    # --- ends -------------------------------------------------------------------------------

    def finish(self, job: Job, line: bytes, outcome: str) -> None:
        """Send the terminal event. The job's id is free from here on."""
        self.drop(job)
        self.admission.note_ended(job.job_id)
        self.outcomes[job.method, outcome] += 1
        self._count_duration(job)
        event = line + b"\n"
        self._record(Journal.finish, job.job_id, event)
        self._outbox.put(event)

    def drop(self, job: Job) -> None:
        """Forget a job that has ended, or that the journal keeps for the next daemon."""
        del self.jobs[job.job_id]
        self.queue.remove(job)
        self.deadlines.remove(job)
        self._queued_bytes -= len(job.line)
        self._kill_suspects -= job.is_kill_suspect

    def fail(
        self,
        job: Job,
        code: ErrorCode,
        text: str,
        cause: Cause | None = None,
        *,
        retryable: bool | None = None,
    ) -> None:
        """End a job with an error of the supervisor."""
        error = JobError(code, text, job_id=job.job_id, retryable=retryable).message_fields()
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
        """End a job that the host has cancelled."""
        self.fail(job, ErrorCode.CANCELLED, "the job was cancelled")

    def fail_deadline(self, job: Job) -> None:
        """End a job that is past its deadline."""
        self.fail(job, ErrorCode.DEADLINE_EXCEEDED, "the job's timeout_s passed")

    def _fail_out_of_attempts(self, job: Job, cause: Cause | None) -> None:
        """End a job whose worker exited at each of its attempts. The last cause is given."""
        why = cause.sentence() if cause else "the supervisor was killed then, so the cause is lost"
        reason = cause["reason"] if cause else None
        if job.attempts > 1:
            text = f"its worker was lost at each of {job.attempts} attempts: {why}"
            self.fail(job, ErrorCode.POISONED, text, cause)
        # A single exit does not prove that the job is the reason.
        elif reason == "stall":
            self.fail(job, ErrorCode.STALLED, why, cause)
        elif reason == "oom_kill":
            self.fail(job, ErrorCode.OUT_OF_MEMORY, why, cause)
        else:
            self.fail(job, ErrorCode.WORKER_CRASHED, why, cause)

    def _fail_after_kills(self, job: Job) -> None:
        """End a job that ran each time a daemon was killed."""
        text = (
            f"the daemon was killed {job.daemon_kills} times while the job ran, which may have "
            "taken all memory; give it more memory, or a smaller picture"
        )
        self.fail(job, ErrorCode.POISONED, text, Cause("supervisor_killed"))

    def _count_duration(self, job: Job) -> None:
        if not job.started_at:
            return
        seconds = self._system.now() - job.started_at
        counts = self.durations.setdefault(job.method, [0.0] * (len(DURATION_BUCKETS_S) + 2))
        counts[bisect_left(DURATION_BUCKETS_S, seconds)] += 1
        counts[-1] += seconds

    # --- the journal and the host -----------------------------------------------------------

    def replay(self, job_ids: list[str] | None) -> None:
        """Have recorded events sent again: of these jobs, or of all. None without a journal."""
        if self.journal is not None or self.awaits_journal:
            self.replays.request(job_ids)

    def catch_up(self) -> None:
        """Record the events that a full disk has kept out of the journal."""
        if self.journal is not None:
            with contextlib.suppress(sqlite3.Error):  # logged when it failed first
                self.journal.catch_up()

    def _record(
        self, write: Callable[Concatenate[Journal, P], None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call a method of the journal, if there is one."""
        if self.journal is None:
            return
        try:
            write(self.journal, *args, **kwargs)
        except sqlite3.Error as error:
            # The host gets its event all the same. If the daemon is killed before the disk has
            # room again, the next one does the job a second time.
            self._log.log("error", "journal_unwritable", detail=str(error))

    def _send(self, fields: dict[str, Any]) -> None:
        self._outbox.put(encode_line(fields))


def _restored(pending: PendingJob) -> Job:
    """A job of the journal. Raises `JobError` if its row is damaged."""
    envelope = open_envelope(pending.line)
    if envelope.type != "job" or envelope.job_id != pending.job_id:
        raise JobError(ErrorCode.INVALID_JOB, "the journal holds another line under this job's id")
    return Job(envelope, pending.line)
