"""When the jobs that have a `timeout_s` are to end."""

from __future__ import annotations

from bisect import bisect_left, insort

from upscaled_supervisor.queue import Job


class Deadlines:
    """A sorted list: a job that has ended leaves it at once, however far off its deadline was."""

    def __init__(self) -> None:
        self._ahead: list[tuple[float, int, Job]] = []

    def add(self, job: Job) -> None:
        """Watch a job, if it has a deadline; it must have its place in the order."""
        if job.deadline is not None:
            insort(self._ahead, (job.deadline, job.order, job))

    def remove(self, job: Job) -> None:
        """Watch it no longer."""
        if job.deadline is not None:
            index = bisect_left(self._ahead, (job.deadline, job.order))
            if index < len(self._ahead) and self._ahead[index][2] is job:
                del self._ahead[index]

    def pop_passed(self, now: float) -> list[Job]:
        """The jobs whose time is up, each of them once."""
        count = bisect_left(self._ahead, (now,))
        passed = [job for _, _, job in self._ahead[:count]]
        del self._ahead[:count]
        return passed
