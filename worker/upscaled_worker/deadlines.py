"""When jobs that wait run out of time. A job that runs checks its deadline itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from upscaled_worker.job import RunningJob

# How late a passed deadline may be noticed. One look serves all deadlines within this time.
_LOOK_S = 0.05


class Deadlines:
    """Knows when to look next, not all deadlines: jobs come and go a thousand times more often."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._next_look = math.inf

    def note(self, job: RunningJob) -> None:
        """Look at the time of this job's deadline too."""
        self._next_look = min(self._next_look, job.deadline)

    def wait_s(self) -> float:
        """The time until the next look."""
        return max(0.0, self._next_look - self._clock())

    def overdue(self, jobs: Iterable[RunningJob]) -> list[RunningJob]:
        """The jobs whose deadline has passed. Plans the next look at the others."""
        now = self._clock()
        if now <= self._next_look:
            return []
        self._next_look = math.inf
        overdue = []
        for job in jobs:
            if job.deadline < now:
                overdue.append(job)
            else:
                self._next_look = min(self._next_look, max(job.deadline, now + _LOOK_S))
        return overdue
