"""The jobs of a worker, from their line to their one terminal message.

job line ── offer ──> Admission ── _accept ──> Lane ── _execute ──> Engine.run
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from upscaled_protocol.admission import Admission
from upscaled_protocol.envelope import not_served
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Accepted, Error, Job, Progress, Result
from upscaled_worker.deadlines import Deadlines
from upscaled_worker.engines import Engines
from upscaled_worker.job import RunningJob
from upscaled_worker.lanes import Lanes
from upscaled_worker.starvation import missing_resource

# A held job in memory: the model with its config.
_JOB_BYTES = 8 * 1024


class Jobs:
    """Accepts jobs, runs them in lanes and ends each exactly once.

    The main thread offers, admits and cancels; the lanes' threads run and end jobs.
    """

    def __init__(
        self,
        engines: Engines,
        send: Callable[[BaseModel], None],
        *,
        max_jobs: int,
        supervised: bool,
        is_paused: Callable[[], bool],
        on_room: Callable[[], None],
        on_failure: Callable[[BaseException], None],
        clock: Callable[[], float],
    ) -> None:
        """is_paused: while it returns true, no job starts.
        on_room: called when a job has ended while others are held.
        on_failure: called if an exception ends a lane's thread.
        """
        self._engines = engines
        self._send = send
        self._max_jobs = max_jobs
        self._supervised = supervised
        self._on_room = on_room
        self._clock = clock
        # Reentrant, because the main thread may end a job while it accepts it.
        self._lock = threading.RLock()
        self._jobs: dict[str, RunningJob] = {}
        self._admission = Admission[Job](
            self._jobs,
            has_room=lambda: len(self._jobs) < self._max_jobs,
            accept=self._accept,
            send=self._send_error,
            job_bytes=_JOB_BYTES,
        )
        self._deadlines = Deadlines(clock)
        self.lanes = Lanes(engines, self._execute, is_paused=is_paused, on_failure=on_failure)

    @property
    def in_flight(self) -> int:
        """Jobs that were accepted and have not ended."""
        return len(self._jobs)

    @property
    def is_holding(self) -> bool:
        """True if a job waits to be accepted."""
        return self._admission.is_holding

    @property
    def is_full(self) -> bool:
        """True if so many jobs wait to be accepted that no more lines should be read."""
        return self._admission.is_full

    def offer(self, job: Job, line_bytes: int) -> None:
        """Accept a job, or hold it until there is room. Raises `JobError` to refuse it."""
        if job.method not in self._engines:
            raise JobError(
                ErrorCode.UNKNOWN_METHOD,
                not_served(job.method, self._engines.methods),
                job_id=job.job_id,
            )
        with self._lock:
            self._admission.offer(job, line_bytes)

    def admit(self) -> None:
        """Accept the held jobs that there is room for."""
        with self._lock:
            self._admission.admit()

    def close(self) -> None:
        """Refuse new jobs from now on. Held jobs are still accepted when there is room."""
        self._admission.close()

    def refuse(self, error: JobError) -> None:
        """Answer a line that is refused."""
        with self._lock:
            self._admission.refuse(error)

    def refuse_held(self, code: ErrorCode, text: str) -> None:
        """Refuse every job that is not accepted yet."""
        with self._lock:
            self._admission.refuse_held(code, text)

    def cancel(self, job_id: str) -> None:
        """End a job with `cancelled`, or remember the cancel for a job that is yet to come."""
        with self._lock:
            if self._admission.cancel_held(job_id) is not None:
                return
            job = self._jobs.get(job_id)
            if job is not None:
                job.cancel()
                self._end_waiting(job)
            elif not self._supervised:
                # A supervisor never cancels a job before its line, so that job was refused.
                self._admission.note_cancel(job_id)

    def wait_s(self) -> float:
        """The time until `end_overdue` should be called."""
        return self._deadlines.wait_s()

    def end_overdue(self) -> None:
        """End the jobs whose time has passed while they wait, for their lane or for the device."""
        with self._lock:
            overdue = self._deadlines.overdue(self._jobs.values())
        for job in overdue:
            self._end_waiting(job)

    def fail_all(self, reason: str) -> None:
        """Answer every job with `worker_crashed`, and take no more answers of theirs."""
        with self._lock:
            self._admission.refuse_held(ErrorCode.WORKER_CRASHED, reason)
            for job in self._jobs.values():
                self._send(job.failure(JobError(ErrorCode.WORKER_CRASHED, reason)))
            self._jobs.clear()

    def _accept(self, job: Job) -> None:
        # Under the lock, so that no message of the job can overtake `accepted`.
        lane = self.lanes.of(job.method)
        running = RunningJob(job, lane.turns, self._send_progress, self._clock)
        self._jobs[job.job_id] = running
        is_cancelled = self._admission.note_accepted(job.job_id)
        if is_cancelled:
            running.cancel()  # before a thread of the lane can start it
        position = lane.submit(running)
        self._deadlines.note(running)
        # A supervisor has sent `accepted` to the host already.
        if not self._supervised:
            self._send(Accepted(job_id=job.job_id, position=position))
        if is_cancelled:
            self._end_waiting(running)

    def _end_waiting(self, job: RunningJob) -> None:
        """End a job that is cancelled or overdue. One that runs ends at its next check."""
        if self.lanes.of(job.job.method).withdraw(job):
            self._execute(job)  # which ends it before it starts
        else:
            job.wake()

    def _execute(self, job: RunningJob) -> None:
        """Run a job to its terminal message. Called by a thread of the job's lane."""
        message: Result | Error
        try:
            job.start()
            message = job.result(self._engines.run(job))
        except JobError as error:
            message = job.failure(error)
        except BaseException as error:  # noqa: BLE001 - also SystemExit: a job ends no worker
            message = job.failure(_unexpected(error), error)
        with self._lock:
            if job.job_id not in self._jobs:  # `fail_all` has answered it
                return
            self._send(message)
            del self._jobs[job.job_id]
            self._admission.note_ended(job.job_id)
            if self._admission.is_holding:
                self._on_room()

    def _send_progress(self, message: Progress) -> None:
        # Under the lock it comes after `accepted`. `fail_all` may have answered the job already.
        with self._lock:
            if message.job_id in self._jobs:
                self._send(message)

    def _send_error(self, fields: dict[str, Any]) -> None:
        self._send(Error(**fields))


def _unexpected(error: BaseException) -> JobError:
    """An exception of an engine, with a code."""
    if isinstance(error, MemoryError):
        return JobError(ErrorCode.OUT_OF_MEMORY, "memory ran out")
    text = f"unexpected {type(error).__name__}: {error}"
    return missing_resource(text, error) or JobError(ErrorCode.INTERNAL, text)
