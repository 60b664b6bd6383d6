"""Jobs that were read from a host's lines before a daemon has room for them."""

from __future__ import annotations

from typing import Generic, TypeVar

JobT = TypeVar("JobT")

# Past this a daemon reads no more lines. Tens of thousands of lines that name a path.
HELD_LIMIT_BYTES = 32 * 1024 * 1024
# What a job takes beside its line, at least.
_JOB_BYTES = 512


class HeldJobs(Generic[JobT]):
    """Jobs by id, in the order of their lines. They are not accepted yet."""

    def __init__(self, job_bytes: int = _JOB_BYTES) -> None:
        """job_bytes: what a job takes beside its line."""
        self._job_bytes = job_bytes
        self._jobs: dict[str, tuple[JobT, int]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._jobs

    @property
    def is_full(self) -> bool:
        """Whether no more lines should be read."""
        return self._bytes >= HELD_LIMIT_BYTES

    def hold(self, job_id: str, job: JobT, line_bytes: int) -> None:
        """Add a job at the end. Its id must be free."""
        size = line_bytes + self._job_bytes
        self._jobs[job_id] = job, size
        self._bytes += size

    def take(self, job_id: str) -> JobT | None:
        """Remove a job; None if no job of this id is held."""
        job, size = self._jobs.pop(job_id, (None, 0))
        self._bytes -= size
        return job

    def take_first(self) -> JobT:
        """Remove the job that was added first. Raises `StopIteration` if there is none."""
        job_id = next(iter(self._jobs))
        job, size = self._jobs.pop(job_id)
        self._bytes -= size
        return job
