"""The deadlines of the jobs that have a `timeout_s`."""

from __future__ import annotations

from bisect import bisect_left, insort

from upscaled_supervisor.queue import Job


class Deadlines:
    """A sorted list, and not a heap: a job that ends early leaves it at once, with its line."""

    def __init__(self) -> None:
        self._ahead: list[tuple[float, int, Job]] = []

    def add(self, job: Job) -> None:
        """Watch a job that is in the queue, if it has a deadline."""
        if job.deadline is not None:
            insort(self._ahead, (job.deadline, job.order, job))

    def remove(self, job: Job) -> None:
        """Watch a job no longer."""
        if job.deadline is not None:
            index = bisect_left(self._ahead, (job.deadline, job.order))
            if index < len(self._ahead) and self._ahead[index][2] is job:
                del self._ahead[index]

    def pop_passed(self, now: float) -> list[Job]:
        """The jobs whose deadline has passed. Each is returned once."""
        count = bisect_left(self._ahead, (now,))
        passed = [job for _, _, job in self._ahead[:count]]
        del self._ahead[:count]
        return passed
