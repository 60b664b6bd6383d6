"""Which jobs a daemon accepts, holds until there is room, or refuses, and what early cancels do.

    job line ── offer ──> accepted   there is room, or the host has cancelled the job already
                    └───> held       not accepted yet; `admit` accepts it once there is room
                    └───> JobError   duplicate_job, shutting_down

Not thread-safe: the owner serialises the calls.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container
from typing import Any, Generic, Protocol, TypeVar

from upscaled_protocol.errors import ErrorCode, JobError

# Ids remembered for cancels that come before or after their job.
REMEMBERED_IDS = 1024
# Past this no more lines are read. Tens of thousands of lines that name a path.
_HELD_LIMIT_BYTES = 32 * 1024 * 1024
# What a held job takes in memory beside its line, at least.
_JOB_BYTES = 512

GOING_DOWN = "no more jobs are taken; the daemon is going down"


class _Identified(Protocol):
    @property
    def job_id(self) -> str: ...


JobT = TypeVar("JobT", bound=_Identified)


class Admission(Generic[JobT]):
    """Decides about each job line and each cancel of a job that is not accepted."""

    def __init__(
        self,
        in_flight: Container[str],
        *,
        has_room: Callable[[], bool],
        accept: Callable[[JobT], None],
        send: Callable[[dict[str, Any]], None],
        job_bytes: int = _JOB_BYTES,
    ) -> None:
        """in_flight: the ids of the accepted jobs, kept by the owner.
        has_room: True if the owner can accept one more job.
        accept: takes a job in and calls `note_accepted`. Raises `JobError` to refuse the job.
        send: takes the fields of an `error` message.
        job_bytes: the memory that a held job takes beside its line.
        """
        self._in_flight = in_flight
        self._has_room = has_room
        self._accept = accept
        self._send = send
        self._job_bytes = job_bytes
        self._held: dict[str, tuple[JobT, int]] = {}  # with their bytes, in the order of the lines
        self._held_bytes = 0
        self._early_cancels = _RememberedIds()
        self._ended = _RememberedIds()
        self._is_closed = False
        # While true every new job is held, also one that was cancelled early.
        self.is_paused = False
        self.refused = 0  # lines so far

    @property
    def is_holding(self) -> bool:
        """True if a job waits to be accepted."""
        return bool(self._held)

    @property
    def is_full(self) -> bool:
        """True if the held jobs take so much memory that no more lines should be read."""
        return self._held_bytes >= _HELD_LIMIT_BYTES

    def close(self) -> None:
        """Refuse new jobs from now on. Held jobs are still accepted when there is room."""
        self._is_closed = True

    def offer(self, job: JobT, line_bytes: int) -> None:
        """Accept the job of a line, or hold it. Raises `JobError` to refuse the line."""
        job_id = job.job_id
        if self._is_closed:
            raise JobError(ErrorCode.SHUTTING_DOWN, GOING_DOWN, job_id=job_id)
        if self._is_taken(job_id):
            raise _duplicate(job_id)
        # A job that was cancelled early ends at once, so it needs no room.
        has_room = (self._has_room() and not self._held) or job_id in self._early_cancels
        if has_room and not self.is_paused:
            self._accept(job)
        else:
            size = line_bytes + self._job_bytes
            self._held[job_id] = job, size
            self._held_bytes += size

    def admit(self) -> None:
        """Accept held jobs, in the order of their lines, as long as there is room."""
        while self._held and self._has_room() and not self.is_paused:
            job = self._take_first()
            try:
                # A journal may have given back a job of this id since its line came.
                if job.job_id in self._in_flight:
                    raise _duplicate(job.job_id)
                self._accept(job)
            except JobError as error:
                self.refuse(error)

    def note_accepted(self, job_id: str) -> bool:
        """Record that a job was accepted. True if an early cancel of it waited: end the job."""
        self._ended.pop(job_id, None)
        return self._early_cancels.pop(job_id, "absent") is None

    def note_ended(self, job_id: str) -> None:
        """Record that a job has had its terminal event: a cancel that comes now is too late."""
        self._ended.add(job_id)

    def note_cancel(self, job_id: str) -> None:
        """Remember a cancel of an id that is not in flight, unless its job has just ended."""
        if job_id not in self._ended:
            self._early_cancels.add(job_id)

    def cancel_held(self, job_id: str) -> JobT | None:
        """Answer a held job with `cancelled` and return it; None if the cancel is for no held
        job."""
        if job_id not in self._held:
            return None
        job = self._take(job_id)
        if job_id in self._in_flight:  # it came back from a journal, and is the one to cancel
            self.refuse(_duplicate(job_id))
            return None
        self._ended.add(job_id)
        error = JobError(ErrorCode.CANCELLED, "the job was cancelled", job_id=job_id)
        self._send(error.message_fields())
        return job

    def refuse_held(self, code: ErrorCode, text: str, *, retryable: bool | None = None) -> None:
        """Answer every held job with an error: there will be no room for it."""
        while self._held:
            job_id = self._take_first().job_id
            self.refuse(JobError(code, text, job_id=job_id, retryable=retryable))

    def refuse(self, error: JobError) -> dict[str, Any]:
        """Answer a line that is refused, and return the answer.

        If a job of the same id is in flight or held, the answer has the id as `refused_job_id`,
        because an `error` with that `job_id` would end the other job.
        """
        self.refused += 1
        fields = error.message_fields()
        if error.job_id is not None and self._is_taken(error.job_id):
            fields |= {"job_id": None, "refused_job_id": error.job_id}
        self._send(fields)
        return fields

    def _is_taken(self, job_id: str) -> bool:
        return job_id in self._in_flight or job_id in self._held

    def _take_first(self) -> JobT:
        return self._take(next(iter(self._held)))

    def _take(self, job_id: str) -> JobT:
        job, size = self._held.pop(job_id)
        self._held_bytes -= size
        return job


def _duplicate(job_id: str) -> JobError:
    return JobError(
        ErrorCode.DUPLICATE_JOB,
        f"job {job_id!r} is still in flight; this line was refused",
        job_id=job_id,
    )


class _RememberedIds(OrderedDict[str, None]):
    """The newest `REMEMBERED_IDS` ids."""

    def add(self, job_id: str) -> None:
        self[job_id] = None
        self.move_to_end(job_id)
        if len(self) > REMEMBERED_IDS:
            self.popitem(last=False)
