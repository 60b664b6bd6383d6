"""One accepted job inside the worker, from acceptance to its terminal message."""

from __future__ import annotations

import math
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from upscaled_imaging.context import Phase
from upscaled_models.engine import Outcome
from upscaled_protocol.codec import unknown_fields
from upscaled_protocol.envelope import RUNNING_STAGE, WAITING_STAGE
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Error, Job, Progress, Result, Timings
from upscaled_worker.pace import Pace
from upscaled_worker.turns import Turns

# More frequent progress is of no use to a person and costs device time.
_PROGRESS_INTERVAL_S = 0.02
# Characters of a traceback that are sent, from its end.
_TRACEBACK_LIMIT = 8000


def traceback_of(error: BaseException) -> str:
    """The end of an exception's traceback, for a person to read."""
    return "".join(traceback.format_exception(error))[-_TRACEBACK_LIMIT:]


class RunningJob:
    """The `Context` of a job's engine: progress, time, cancelling, turns on the device."""

    def __init__(
        self,
        job: Job,
        turns: Turns,
        send: Callable[[Progress], None],
        clock: Callable[[], float],
    ) -> None:
        self.job = job
        self.job_id = job.job_id
        self.attempt = job.attempt
        self.accepted_as = job.accepted_as
        self._turns = turns
        self._send = send
        self._clock = clock
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._accepted_at = clock()
        self._started_at = self._accepted_at
        self.deadline = self._accepted_at + (math.inf if job.timeout_s is None else job.timeout_s)
        self._seconds: dict[str, float] = {}
        self._warnings = [f"unknown field {name} was ignored" for name in unknown_fields(job)]
        self._percent = 0.0
        self._pace = Pace(self._started_at)
        self._stage = ""
        self._sent_at = 0.0

    def start(self) -> None:
        """The job leaves its lane's queue. Raises `JobError` if it was cancelled or its time passed
        while it waited."""
        self._started_at = self._clock()
        self._pace.begin(self._started_at, 0.0)
        self.check_cancelled()

    def cancel(self) -> None:
        """Ask the engine to stop at its next check, or the lane not to start."""
        self._is_cancelled = True
        self._turns.wake()

    def wake(self) -> None:
        """Have the job check its deadline, if it waits for the device."""
        self._turns.wake()

    def check_cancelled(self) -> None:
        if self._is_cancelled:
            raise JobError(ErrorCode.CANCELLED, "the job was cancelled")
        if self._clock() > self.deadline:
            raise JobError(
                ErrorCode.DEADLINE_EXCEEDED,
                f"the job took longer than its {self.job.timeout_s:g} s",
            )

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
        self.check_cancelled()
        now = self._clock()
        with self._lock:
            self._percent = max(self._percent, min(percent, 100.0))
            if not self._percent or stage == RUNNING_STAGE:
                self._pace.begin(now, self._percent)
            else:
                self._pace.reach(now, self._percent)
            repeats = stage == self._stage and now - self._sent_at < _PROGRESS_INTERVAL_S
            if repeats and percent < 100 and budget_s is None:
                return
            self._stage = stage
            self._sent_at = now
            left_s = self._pace.seconds_left(tail_s)
            message = Progress(
                job_id=self.job_id,
                progress=round(self._percent, 2),
                stage=stage,
                done=done,
                total=total,
                eta_s=None if left_s is None else round(left_s, 2),
                attempt=self.attempt,
                budget_s=budget_s,
            )
        self._send(message)

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            with self._lock:
                spent = self._clock() - start
                self._seconds[phase] = self._seconds.get(phase, 0.0) + spent

    @contextmanager
    def device_turn(self) -> Iterator[None]:
        if self._turns.taken:
            # A supervisor stops the job's stall clock until the turn comes; see `WAITING_STAGE`.
            self.progress(self._percent, WAITING_STAGE)
        with self._turns.turn(self.check_cancelled):
            if self._stage == WAITING_STAGE:
                self.progress(self._percent, RUNNING_STAGE)
            yield

    def warn(self, text: str) -> None:
        with self._lock:
            if text not in self._warnings:
                self._warnings.append(text)

    def result(self, outcome: Outcome) -> Result:
        """The terminal message of a job that succeeded."""
        return Result(
            job_id=self.job_id,
            output_path=outcome.output_path,
            output_base64=outcome.output_base64,
            output_url=outcome.output_url,
            output_bytes=outcome.output_bytes,
            input_size=outcome.input_size,
            output_size=outcome.output_size,
            scale_factor=outcome.scale_factor,
            crop_info=outcome.crop_info,
            processing_time=round(self._clock() - self._started_at, 6),
            timings=Timings(
                queue=round(self._started_at - self._accepted_at, 6),
                **{phase: round(seconds, 6) for phase, seconds in self._seconds.items()},
            ),
            model=outcome.model,
            model_reason=outcome.model_reason,
            device=outcome.device,
            precision=outcome.precision,
            upstream_calls=outcome.upstream_calls,
            faces=outcome.faces,
            attempt=self.attempt,
            warnings=self._warnings + outcome.warnings,
        )

    def failure(self, error: JobError, reason: BaseException | None = None) -> Error:
        """The terminal message of a job that failed. reason: gives `internal` its traceback."""
        is_internal = error.code is ErrorCode.INTERNAL
        return Error(
            job_id=self.job_id,
            error=error.message,
            code=error.code,
            retryable=error.retryable,
            attempt=self.attempt,
            traceback=traceback_of(reason) if reason and is_internal else None,
        )
