"""A job's surroundings, for tests that run an engine without a worker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from upscaled_imaging.context import Phase
from upscaled_protocol.errors import ErrorCode, JobError


class RecordingContext:
    """A job that keeps what the engine reports. It can be cancelled at a percentage.

    Contexts that share a `turn` share a device.
    """

    attempt = 1

    def __init__(
        self,
        job_id: str = "job-1",
        *,
        cancel_at: float | None = None,
        turn: threading.Lock | None = None,
        accepted_as: str | None = None,
    ) -> None:
        self.job_id = job_id
        self.accepted_as = accepted_as
        self.warnings: list[str] = []
        self.percents: list[float] = []
        self.stages: list[str] = []
        self.budgets_s: list[float | None] = []
        self.tiles: list[tuple[int, int]] = []
        self.phases: list[Phase] = []
        self._cancel_at = cancel_at
        self._turn = turn or threading.Lock()

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
        self.percents.append(percent)
        self.stages.append(stage)
        self.budgets_s.append(budget_s)
        if done is not None and total is not None:
            self.tiles.append((done, total))
        if self._cancel_at is not None and percent >= self._cancel_at:
            raise JobError(ErrorCode.CANCELLED, "the host cancelled the job")

    def check_cancelled(self) -> None: ...

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        self.phases.append(phase)
        yield

    @contextmanager
    def device_turn(self) -> Iterator[None]:
        with self._turn:
            yield

    def warn(self, text: str) -> None:
        self.warnings.append(text)
