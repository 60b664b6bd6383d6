"""The running job, as the code that reads and writes its picture sees it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal, Protocol

Phase = Literal["load", "decode", "inference", "encode"]


class PictureContext(Protocol):
    """The part of a running job that reading and writing a picture needs.

    Safe to use from the job's own threads.
    """

    job_id: str
    # A supervisor's name for this acceptance of the job. It is the same for each of its runs.
    accepted_as: str | None

    def progress(
        self,
        percent: float,
        stage: str,
        *,
        done: int | None = None,
        total: int | None = None,
        budget_s: float | None = None,
        tail_s: float = 0.0,
    ) -> None:
        """Report progress, which is also the heartbeat.

        `percent` is 0 to 100, in proportion to the time that the work takes. It never falls: a
        lower value is raised to the last one. The clock for the time left starts at the last 0.
        `budget_s` is the time allowed until the next report: give it before work that can take
        long. `tail_s` is the expected time after 100 percent.
        Raises `JobError` (cancelled) if the job was cancelled.
        """

    def check_cancelled(self) -> None:
        """Raise `JobError` (cancelled) if the job was cancelled. Cheap: call it for every tile."""

    def phase(self, phase: Phase) -> AbstractContextManager[None]:
        """Measure the time of some work. Times of one phase add up, and threads may overlap."""

    def warn(self, text: str) -> None:
        """Add one sentence to the result's `warnings`, unless it is there already."""
