"""What a running job gives to those that read and write its picture."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal, Protocol

Phase = Literal["load", "decode", "inference", "encode"]


class PictureContext(Protocol):
    """What reading and writing a picture needs of the running job.

    Safe to use from the job's own threads.
    """

    job_id: str
    # What a supervisor calls this acceptance of the job, the same for each of its runs.
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
        """Tell how far the job is; it is also the heartbeat.

        `percent` 0 to 100, never falling (a lower one is raised to the last), in proportion to the
        time that it takes; the clock for the time left starts with the last 0. `budget_s` is the
        silence to allow from here on: give it before work that can take long. `tail_s` is what
        follows 100 percent, as far as that is known.
        Raises `JobError` (cancelled) if the job was cancelled.
        """

    def check_cancelled(self) -> None:
        """Raise `JobError` (cancelled) if the job was cancelled. Cheap: call it every tile."""

    def phase(self, phase: Phase) -> AbstractContextManager[None]:
        """Time a stretch of work; stretches of one phase add up, threads may overlap."""

    def warn(self, text: str) -> None:
        """Add one sentence to the result's `warnings`; a repeated one is dropped."""
