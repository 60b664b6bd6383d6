"""When jobs that wait run out of time. A job that runs looks at its own clock."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from upscaled_worker.job import RunningJob

# How late a deadline may be noticed. Deadlines that are nearer to each other cost one look.
_LOOK_S = 0.05


class Deadlines:
    """Knows the next deadline, not all of them: jobs come and go a thousand times more often."""

    def __init__(self) -> None:
        self._next_look = math.inf

    def note(self, job: RunningJob) -> None:
        """Look in time for this one too."""
        self._next_look = min(self._next_look, job.deadline)

    def wait_s(self) -> float:
        """How long there is nothing to do."""
        return max(0.0, self._next_look - time.perf_counter())

    def overdue(self, jobs: Iterable[RunningJob]) -> list[RunningJob]:
        """Those whose time is over; plans the next look at these jobs."""
        now = time.perf_counter()
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
