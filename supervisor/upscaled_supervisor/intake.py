"""Job lines that the host has written before there is room for their jobs."""

from __future__ import annotations

from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.heldjobs import HeldJobs
from upscaled_supervisor.ledger import Ledger
from upscaled_supervisor.queue import Job


class Intake:
    """Passes jobs to the ledger, in the order of their lines. A job waits while the ledger has no
    room: it is not accepted yet, but its id is taken, and a cancel ends it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._held = HeldJobs[Job]()

    @property
    def is_empty(self) -> bool:
        """Whether no job waits."""
        return not self._held

    @property
    def is_full(self) -> bool:
        """Whether no more lines should be read, because too much waits already."""
        return self._held.is_full

    def offer(self, job: Job) -> None:
        """Accept a job now, or when there is room. Raises `JobError` if it must be refused."""
        if job.job_id in self._held or job.job_id in self._ledger.jobs:
            raise JobError(
                ErrorCode.DUPLICATE_JOB,
                f"job {job.job_id!r} is still in flight; this line was refused",
                job_id=job.job_id,
            )
        has_room = self._ledger.has_room and not self._held
        # A job that is cancelled already takes no room.
        if has_room or self._ledger.expects_cancelled(job):
            self._ledger.accept(job)
        else:
            self._held.hold(job.job_id, job, len(job.line))

    def admit(self) -> None:
        """Accept the jobs that there is room for now."""
        while self._held and self._ledger.has_room:
            job = self._held.take_first()
            try:
                self._ledger.accept(job)
            except JobError as error:
                self.refuse(error)

    def cancel(self, job_id: str) -> bool:
        """End a waiting job; False if no job of this id waits here."""
        job = self._held.take(job_id)
        if job is None:
            return False
        self._ledger.fail_unaccepted(job, ErrorCode.CANCELLED, "the job was cancelled")
        return True

    def refuse_all(self, code: ErrorCode, text: str) -> None:
        """Refuse the jobs that still wait: there will be no room for them."""
        while self._held:
            self.refuse(JobError(code, text, job_id=self._held.take_first().job_id))

    def refuse(self, error: JobError) -> None:
        """Answer a line that is refused. The error must not end another job of the same id."""
        self._ledger.refuse(error, is_taken=error.job_id in self._held)
