"""The first stage of a FLUX job, an ESRGAN upscale, as a part of the job."""

from __future__ import annotations

from contextlib import AbstractContextManager

from upscaled_imaging.context import Phase
from upscaled_models.engine import Context


class Subordinate:
    """A job's context for its first stage: its progress is a sign of life, at 0 percent."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.job_id = context.job_id
        self.attempt = context.attempt
        self.accepted_as = context.accepted_as

    def progress(
        self,
        percent: float,  # noqa: ARG002 - of the first stage alone
        stage: str,
        *,
        done: int | None = None,  # noqa: ARG002
        total: int | None = None,  # noqa: ARG002
        budget_s: float | None = None,
        tail_s: float = 0.0,  # noqa: ARG002
    ) -> None:
        self._context.progress(0, stage, budget_s=budget_s)

    def check_cancelled(self) -> None:
        self._context.check_cancelled()

    def phase(self, phase: Phase) -> AbstractContextManager[None]:
        return self._context.phase(phase)

    def device_turn(self) -> AbstractContextManager[None]:
        return self._context.device_turn()

    def warn(self, text: str) -> None:
        self._context.warn(text)
